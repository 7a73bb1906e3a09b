"""Learning from all stores without their baskets: a server that averages weights.

Federated averaging (McMahan et al. 2017), and what the server may do in place of the mean when
some of the answers are nonsense. Chapter 18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.federated.averaging", "federated"):
    import torch

State = dict[str, torch.Tensor]
"""The tensors of a model, by name."""
Client = Callable[[State, int], State]
"""What a store does: from the server's tensors and a seed to its own. Its baskets stay inside."""
Combine = Callable[[State, Sequence[State], Sequence[float]], State]
"""The server's next tensors, from those that it sent, those that came back, and their weights."""


def mean(sent: State, states: Sequence[State], weights: Sequence[float]) -> State:
    """The mean of the states, weighed by how many rows each has learnt from.

    `sent` is not looked at. Raises ValueError where there is no state, a weight is missing, or no
    weight is above 0.

    Example:
        >>> one, other = ({"w": torch.tensor([value])} for value in (0.0, 4.0))
        >>> mean(one, [one, other], [3, 1])["w"]
        tensor([1.])
    """
    if not states or len(states) != len(weights) or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(
            f"mean: {len(states)} states and {len(weights)} weights; give as many weights as "
            "states, none below 0 and one above."
        )
    total, pairs = float(sum(weights)), list(zip(weights, states, strict=True))
    return {
        name: sum(weight / total * state[name] for weight, state in pairs) for name in states[0]
    }


def median(sent: State, states: Sequence[State], weights: Sequence[float]) -> State:
    """The median of each number over the states (Yin et al. 2018). Every store counts alike.

    Example:
        >>> states = [{"w": torch.tensor([value])} for value in (1.0, 2.0, 900.0)]
        >>> median(states[0], states, [1, 1, 1])["w"]
        tensor([2.])
    """
    return trimmed(sent, states, weights, share=0.5)


def trimmed(
    sent: State, states: Sequence[State], weights: Sequence[float], share: float = 0.2
) -> State:
    """The mean of each number without the `share` highest and lowest ones (Yin et al. 2018).

    With a share of one half it is the median. Every store counts alike. Raises ValueError for no
    state, or a share outside 0 to 0.5.

    Example:
        >>> states = [{"w": torch.tensor([value])} for value in (0.0, 1.0, 2.0, 3.0, 900.0)]
        >>> trimmed(states[0], states, [1] * 5)["w"]
        tensor([2.])
    """
    if not states or not 0 <= share <= 0.5:
        raise ValueError(
            f"trimmed: {len(states)} states and a share of {share}; give a state or more, and a "
            "share from 0 to 0.5."
        )
    # A little more: 0.29 · 100 is 28.999… in floating point.
    cut = min(int(share * len(states) + 1e-9), (len(states) - 1) // 2)
    found = {}
    for name in states[0]:
        values = torch.stack([state[name] for state in states]).sort(dim=0).values
        found[name] = values[cut : len(states) - cut].mean(dim=0)
    return found


def clipped(sent: State, states: Sequence[State], weights: Sequence[float]) -> State:
    """The mean, where no store may move the weights further than the median store does.

    Each difference to what was `sent` is shortened to the median of the stores' lengths.

    Example:
        >>> sent = {"w": torch.zeros(1)}
        >>> states = [{"w": torch.tensor([value])} for value in (1.0, 1.0, 900.0)]
        >>> clipped(sent, states, [1, 1, 1])["w"]
        tensor([1.])
    """
    lengths = np.array([_length(state, sent) for state in states])
    # An answer that is not finite moves nothing.
    pairs = zip(states, lengths, strict=True)
    states = [state if np.isfinite(length) else sent for state, length in pairs]
    lengths = np.where(np.isfinite(lengths), lengths, 0.0)
    most = np.median(lengths)
    scales = [min(1.0, most / length) if length > 0 else 1.0 for length in lengths]
    shortened = [
        {name: sent[name] + scale * (state[name] - sent[name]) for name in sent}
        for scale, state in zip(scales, states, strict=True)
    ]
    return mean(sent, shortened, weights)


def rounds(
    state: State,
    clients: Sequence[Client],
    sizes: Sequence[float],
    count: int,
    each: int,
    seed: int = 0,
    combine: Combine = mean,
    dropped: float = 0.0,
    watch: Callable[[int, State], None] | None = None,
) -> State:
    """Federated averaging: `count` times, `each` of the clients answer and the server combines.

    Args:
        state: the server's first tensors.
        clients: what each store does with them.
        sizes: the weight of each store, as a rule the rows that it learns from.
        each: how many stores are drawn for a round.
        dropped: the share of the drawn stores whose answer never comes.
        watch: called with the round, from 1 on, and the server's tensors after it.

    A round in which nobody answers leaves the tensors as they were. Raises ValueError unless every
    client has a size, 1 ≤ each ≤ the number of clients, and 0 ≤ dropped < 1.

    Example:
        >>> add = lambda state, seed: {"w": state["w"] + 1}
        >>> rounds({"w": torch.zeros(1)}, [add, add], [1, 1], count=3, each=2)["w"]
        tensor([3.])
    """
    if len(clients) != len(sizes) or not 1 <= each <= len(clients) or not 0 <= dropped < 1:
        raise ValueError(
            f"rounds: {len(clients)} clients, {len(sizes)} sizes, {each} in a round, {dropped} "
            "dropped; give a size to each client, draw at least one and not more than there are, "
            "and drop a share from 0 to below 1."
        )
    rng = np.random.default_rng(seed)
    for number in range(1, count + 1):
        drawn = rng.permutation(len(clients))[:each]
        there = [client for client in drawn if rng.random() >= dropped]
        answers = [clients[client](state, int(rng.integers(2**31))) for client in there]
        if answers:
            state = combine(state, answers, [sizes[client] for client in there])
        if watch is not None:
            watch(number, state)
    return state


def size_of(state: Mapping[str, torch.Tensor]) -> int:
    """The bytes of the tensors as they are sent, without names and shapes.

    Example:
        >>> size_of({"w": torch.zeros(2, 3)})
        24
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def _length(state: State, sent: State) -> float:
    return float(torch.sqrt(sum(((state[name] - sent[name]) ** 2).sum() for name in sent)))
