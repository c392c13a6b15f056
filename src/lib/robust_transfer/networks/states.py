"""States of networks in which a tensor that stands under several names is kept once.

Tied weights are one tensor under several names; files hold it once, and copies must not untie it.
"""

from torch import Tensor, nn


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network, each tensor under the first of its names."""
    state = model.state_dict()
    first = aliases(state)
    return {name: value for name, value in state.items() if first[name] == name}


def load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state in which tied tensors may stand under the first of their names only.

    Raises:
        RuntimeError: a tensor is missing, is none of the network's, or has another shape.
    """
    first = aliases(model.state_dict())
    model.load_state_dict(state | {n: state[f] for n, f in first.items() if n != f and f in state})


def aliases(state: dict[str, Tensor]) -> dict[str, str]:
    """Name of each tensor → the first name under which the same memory stands in the state."""
    first: dict[tuple, str] = {}
    return {
        name: first.setdefault((value.data_ptr() or name, value.shape, value.stride()), name)
        for name, value in state.items()
    }
