"""A `ServerState` as plain values for JSON: everything that is known, nothing cut.

`learnsgl trace show --json` prints it.
"""

from __future__ import annotations

from typing import Any

from learnsgl.core import ReqKey
from learnsgl.replay.page_map import SIGNS
from learnsgl.replay.scheduler_view import RunningRequest, SchedulerView, WaitingRequest
from learnsgl.replay.server_state import ServerState


def state_json(state: ServerState) -> dict[str, Any]:
    """The state as dicts, lists, numbers and text; what isn't known is `None`."""
    moment = state.moment
    return {
        "moment": {
            "ns": moment.ns, "time_s": moment.time_s, "process": moment.process, "event": moment.number,
            "kind": moment.kind, "positions": dict(moment.positions),
        },
        "level": state.level,
        "processes": [
            {
                "name": activity.name, "role": activity.role, "pid": activity.pid, "status": activity.status.value,
                "doing": activity.doing, "since_ns": activity.since_ns, "uids": list(activity.uids),
            }
            for activity in state.processes
        ],
        "steps_in_flight": [
            {
                "step": step.step, "stage": step.stage.value, "uids": list(step.uids), "lens": list(step.lens),
                "num_prefill": step.num_prefill, "submitted_ns": step.submitted_ns,
            }
            for step in state.steps_in_flight
        ],
        "schedulers": [_scheduler(view) for view in state.schedulers],
        "messages": None if state.messages is None else [
            {
                "sender": message.sender, "channel": message.channel, "number": message.number,
                "sent_ns": message.sent_ns, "receiver": message.receiver, "kinds": message.kinds,
                "uids": None if message.uids is None else list(message.uids), "num_bytes": message.num_bytes,
            }
            for message in state.messages
        ],
    }  # fmt: skip


def _scheduler(view: SchedulerView) -> dict[str, Any]:
    if not view.is_known:
        return {"name": view.name, "is_known": False}
    uses, tree = view.page_uses, view.tree
    return {
        "name": view.name, "is_known": True, "step": view.step, "page_size": view.page_size,
        "num_rows": view.num_rows,
        "queue": [_waiting(request) for request in view.queue],
        "running": [_running(request) for request in view.running],
        "pages": None if uses is None else {
            "num_pages": view.num_pages,
            **{use.name.lower(): int((uses == use).sum()) for use in SIGNS},
            "refs": view.folded.refs.tolist(),
        },
        "tree": None if tree is None else [
            {
                "node": node.node, "parent": node.parent, "children": list(node.children), "lock": node.lock,
                "last_use": node.last_use, "pages": list(node.pages),
            }
            for node in tree.values()
        ],
    }  # fmt: skip


def _key(key: ReqKey) -> dict[str, int]:
    return {"uid": key.uid, "choice": key.choice}


def _waiting(request: WaitingRequest) -> dict[str, Any]:
    lens = {"prompt_len": request.prompt_len, "limit_len": request.limit_len}
    return {**_key(request.key), "order": request.order, **lens}


def _running(request: RunningRequest) -> dict[str, Any]:
    return {
        **_key(request.key), "row": request.row, "stage": request.stage.name.lower(),
        "prompt_len": request.prompt_len, "cached_len": request.cached_len, "scheduled_len": request.scheduled_len,
        "committed_len": request.committed_len, "num_output": request.num_output, "limit_len": request.limit_len,
        "num_in_flight": request.num_in_flight, "progress": request.progress, "node": request.node,
        "pages": None if request.pages is None else list(request.pages),
    }  # fmt: skip
