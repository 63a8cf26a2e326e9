"""Figures made from traces. Nothing of the server imports this room; it reads recordings, as a learner would."""
