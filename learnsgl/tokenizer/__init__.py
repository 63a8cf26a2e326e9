"""Text to token ids and back: the tokenizer and detokenizer workers, and what they are made of. No torch here."""
