"""Reference implementations in slow, plain Python, which the package must agree with.

A text is a list, an edit is a pop, a sum is a loop, and numbers are Python floats (float64). They are
written from the definitions in docs/mathematics.md. `edits` maps an edit to the tokens it pops.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sequencematch.core.types import Episode

INFINITE = math.inf

# f(t), and the ratio t >= 0 that attains inf_t x t + f(t).
F = {
    "chi2": lambda t: (t - 1) ** 2,
    "le_cam": lambda t: 2 * (t - 1) ** 2 / (t + 1),
    "forward_kl": lambda t: t - 1 - math.log(t),
    "reverse_kl": lambda t: (t * math.log(t) if t > 0 else 0) - t + 1,
    "js": lambda t: (t * math.log(t) if t > 0 else 0) - (t + 1) * math.log((t + 1) / 2),
    "hellinger": lambda t: (math.sqrt(t) - 1) ** 2,
    "tv": lambda t: abs(t - 1) / 2,
}
RATIO = {
    "chi2": lambda x: 1 - x / 2,
    "le_cam": lambda x: max(math.sqrt(8 / (2 + x)) - 1, 0) if x > -2 else INFINITE,
    "forward_kl": lambda x: 1 / (1 + x) if x > -1 else INFINITE,
    "reverse_kl": lambda x: math.exp(-x) if x > -50 else INFINITE,
    "js": lambda x: 1 / (2 * math.exp(x) - 1) if 2 * math.exp(x) > 1 else INFINITE,
    "hellinger": lambda x: 1 / (1 + x) ** 2 if x > -1 else INFINITE,
    "tv": lambda x: INFINITE if x < -0.5 else 1 if x < 0.5 else 0,
}


def phi(divergence: str, x: float, t_max: float = 100.0) -> float:
    """inf of x t + f(t) over ratios t <= t_max; chi2: over all real t; chi2_mixture: x - x^2/8."""
    if divergence == "chi2_mixture":
        return x - x**2 / 8
    t = RATIO[divergence](x)
    t = t if divergence == "chi2" else min(t, t_max)
    return x * t + F[divergence](t)


def psi(divergence: str, x: float) -> float:
    """The function applied to x on the policy's steps; 0 for a divergence without psi."""
    return -(x**2) / 8 if divergence == "chi2_mixture" else 0.0


KAPPA = {"discounted": lambda gamma, t: gamma**t, "uniform": lambda gamma, t: 1.0}


# The stack machine: texts, states and trajectories.


def replay(
    prompt: Sequence[int], actions: Sequence[int], edits: Mapping[int, int]
) -> list[list[tuple[int, int]]]:
    """The text before the first action and after each: its (slot, token) pairs, bottom first."""
    stack = [(slot, int(token)) for slot, token in enumerate(prompt)]
    states = [list(stack)]
    for slot, action in enumerate(actions, start=len(prompt)):
        if action in edits:
            for _ in range(min(edits[action], len(stack) - len(prompt))):
                stack.pop()
        else:
            stack.append((slot, int(action)))
        states.append(list(stack))
    return states


def texts(prompt: Sequence[int], actions: Sequence[int], edits: Mapping[int, int]) -> list[list]:
    """The tokens of every state, s_0 .. s_N."""
    return [[token for _, token in state] for state in replay(prompt, actions, edits)]


class Track(NamedTuple):
    """The fields of a `Trajectory` that the actions alone decide, as lists."""

    tokens: list[int]
    positions: list[int]
    visible_until: list[int]
    state: list[int]
    valid: list[bool]
    start: int
    end: int
    finished: bool


def track(
    prompt: Sequence[int],
    actions: Sequence[int],
    *,
    slots: int,
    edits: Mapping[int, int],
    eos: int,
    pad: int,
) -> Track:
    """A trajectory of `slots` slots, slot by slot from the definitions in docs/mathematics.md."""
    states = replay(prompt, actions, edits)
    start, end = len(prompt) - 1, len(prompt) - 1 + len(actions)
    depth_of = {slot: depth for state in states for depth, (slot, _) in enumerate(state)}
    positions = [depth_of.get(slot, 0) for slot in range(slots)]
    top = {start + n: state[-1][0] for n, state in enumerate(states)}
    state = [top.get(slot, slot) for slot in range(slots)]

    def until(j: int) -> int:
        if j <= start:
            return slots
        if j not in depth_of:
            return j + 1
        lower = (k for k in range(j + 1, end + 1) if positions[state[k]] < positions[j])
        return next(lower, slots)

    padding = [pad] * (slots - end - 1)
    return Track(
        tokens=[*map(int, prompt), *map(int, actions), *padding],
        positions=positions,
        visible_until=[until(j) for j in range(slots)],
        state=state,
        valid=[start <= t < end for t in range(slots)],
        start=start,
        end=end,
        finished=len(actions) > 0 and actions[-1] == eos,
    )


def random_actions(
    rng: np.random.Generator, length: int, *, ordinary: Sequence[int], edits: Sequence[int]
) -> list[int]:
    """Actions in runs of pushes and runs of edits; either may come first."""
    actions = []
    while len(actions) < length:
        kind = ordinary if rng.random() < 0.6 else edits
        actions += [int(a) for a in rng.choice(kind, size=rng.integers(1, 5))]
    return actions[:length]


def lay_out_episode(
    prompt: Sequence[int],
    actions: Sequence[int],
    labels: Sequence[int],
    *,
    slots: int,
    filler: int,
    imitate: Sequence[bool] | bool = True,
) -> Episode:
    """An episode of `slots` slots, with `filler` wherever no action was taken."""
    start, end = len(prompt) - 1, len(prompt) - 1 + len(actions)
    tokens = np.full(slots, filler, np.int32)
    tokens[: end + 1] = [*prompt, *actions]
    label = np.full(slots, filler, np.int32)
    label[start:end] = labels
    counts = np.zeros(slots, bool)
    counts[start:end] = imitate
    return Episode(tokens, label, counts, np.int32(start), np.int32(end))


def stack_episodes(episodes: Sequence[Episode]) -> Episode:
    """Episodes of the same number of slots as one batch."""
    return Episode(*(np.stack(field) for field in zip(*episodes, strict=True)))


# The objectives.


class Case(NamedTuple):
    """One trajectory and the logits of a network on it.

    Attributes:
      track: the trajectory.
      logits: [slots][V], at the token of each slot.
      labels: the label at each slot-time.
      imitate: whether the step at each slot-time counts in the expert's sums.
      legal: [V], the action set.
    """

    track: Track
    logits: Sequence[Sequence[float]]
    labels: Sequence[int]
    imitate: Sequence[bool]
    legal: Sequence[bool]

    @property
    def decisions(self) -> range:
        return range(self.track.start, self.track.end)

    def value(self, time: int) -> float:
        """V(s_t) = log sum_a exp l(a|s_t) over the legal actions."""
        row = self.logits[self.track.state[time]]
        logits = [float(row[action]) for action in range(len(row)) if self.legal[action]]
        most = max(logits)
        return most + math.log(sum(math.exp(logit - most) for logit in logits))

    def q(self, time: int) -> float:
        """l(a_t|s_t) of the label."""
        return float(self.logits[self.track.state[time]][self.labels[time]])

    def reward(self, time: int, gamma: float) -> float:
        """r_t = l(a_t|s_t) - gamma V(s_{t+1})."""
        return self.q(time) - gamma * self.value(time + 1)


class Goal(NamedTuple):
    """The choices that define J, by name.

    Attributes:
      terminal: "learned" or "zero", V(s_N) of a finished trajectory.
      bound: V(s_{t+1}) in rewards and in C is clipped to +- this.
      skip: whether the expert's C is over its imitated steps only.
    """

    divergence: str
    weighting: str
    alpha: float
    gamma: float
    w: float
    terminal: str = "learned"
    bound: float = INFINITE
    skip: bool = False
    t_max: float = 100.0

    @property
    def policy_share(self) -> float:
        """The share of C on the policy's cases: all of C is the expert's where it is V(s_0)."""
        return 0.0 if self.weighting == "discounted" and self.bound == INFINITE else self.w

    def kappa(self, case: Case, time: int) -> float:
        return KAPPA[self.weighting](self.gamma, time - case.track.start)

    def value(self, case: Case, time: int) -> float:
        """V(s_t), after `terminal` at the last state."""
        if self.terminal == "zero" and case.track.finished and time == case.track.end:
            return 0.0
        return case.value(time)

    def reward(self, case: Case, time: int) -> float:
        """r_t = l(a_t|s_t) - gamma V(s_{t+1})."""
        return case.q(time) - self.gamma * self.next_value(case, time)

    def next_value(self, case: Case, time: int) -> float:
        """V(s_{t+1}) as r_t and C read it."""
        return min(max(self.value(case, time + 1), -self.bound), self.bound)

    def phi(self, x: float) -> float:
        return phi(self.divergence, x, self.t_max)


def cost(goal: Goal, case: Case, imitated_only: bool = False) -> float:
    """C(tau) = sum_t kappa_t (V(s_t) - gamma V(s_{t+1})) + kappa_N V(s_N) over all or imitated t."""
    end = case.track.end
    c = goal.kappa(case, end) * goal.value(case, end)
    for t in case.decisions:
        if case.imitate[t] or not imitated_only:
            difference = goal.value(case, t) - goal.gamma * goal.next_value(case, t)
            c += goal.kappa(case, t) * difference
    return c


def expert_objective(goal: Goal, case: Case) -> float:
    """sum_t kappa_t phi(alpha r_t)/alpha + kappa_N B(s_N) - (1-w) C(tau)."""
    alpha, gamma = goal.alpha, goal.gamma
    total = 0.0
    for t in case.decisions:
        if case.imitate[t]:
            total += goal.kappa(case, t) * goal.phi(alpha * goal.reward(case, t)) / alpha
    end = case.track.end
    if case.track.finished:
        scale = alpha * (1 - gamma)
        ending = goal.phi(scale * goal.value(case, end)) / scale
    else:
        ending = goal.value(case, end)
    total += goal.kappa(case, end) * ending
    return total - (1 - goal.policy_share) * cost(goal, case, imitated_only=goal.skip)


def policy_objective(goal: Goal, case: Case) -> float:
    """-w C(tau), and for chi2_mixture -(alpha/8) (sum_t kappa_t r_t^2 + kappa_N (1-gamma) V(s_N)^2)."""
    alpha, gamma = goal.alpha, goal.gamma
    total = -goal.policy_share * cost(goal, case)
    for t in case.decisions:
        x = alpha * goal.reward(case, t)
        total += goal.kappa(case, t) * psi(goal.divergence, x) / alpha
    if case.track.finished:
        end, scale = case.track.end, alpha * (1 - gamma)
        ending = psi(goal.divergence, scale * goal.value(case, end)) / scale
        total += goal.kappa(case, end) * ending
    return total


def count_imitated(cases: Sequence[Case]) -> int:
    """Number of expert steps that count."""
    return sum(case.imitate[t] for case in cases for t in case.decisions)


def behavioural_cloning(cases: Sequence[Case]) -> float:
    """Mean of -log pi(a_t|s_t) over the imitated steps."""
    total = 0.0
    for case in cases:
        for t in case.decisions:
            if case.imitate[t]:
                total -= case.q(t) - case.value(t)
    return total / count_imitated(cases)


def sequencematch(goal: Goal, experts: Sequence[Case], policies: Sequence[Case]) -> float:
    """J over a batch, per imitated step."""
    total = 0.0
    for case in experts:
        total += expert_objective(goal, case)
    for case in policies:
        total += policy_objective(goal, case) * len(experts) / len(policies)
    return total / count_imitated(experts)


def split_cost_sequencematch(
    goal: Goal, experts: Sequence[Case], policies: Sequence[Case]
) -> float:
    """J with (1-w) C on the expert's and w C on the policy's cases, also where C telescopes.

    The estimator up to version 0.1: same expectation, more variance.
    """
    total = 0.0
    for case in experts:
        total += expert_objective(goal, case)
        total += (goal.w - goal.policy_share) * cost(goal, case, imitated_only=goal.skip)
    for case in policies:
        one = policy_objective(goal, case) - (goal.w - goal.policy_share) * cost(goal, case)
        total += one * len(experts) / len(policies)
    return total / count_imitated(experts)


def unlikelihood(cases: Sequence[Case], states: Sequence[Sequence[list]]) -> float:
    """Cloning plus the mean of -sum_c log(1 - pi(c|s_t)) over the tokens c of the text but the label.

    Args:
      cases: a batch without edits.
      states: per trajectory, the texts of its states s_0 .. s_N.
    """
    total = 0.0
    for case, texts in zip(cases, states, strict=True):
        for t in case.decisions:
            if not case.imitate[t]:
                continue
            row = case.logits[case.track.state[t]]
            for c in set(texts[t - case.track.start]) - {case.labels[t]}:
                if case.legal[c]:
                    total -= math.log(1 - math.exp(float(row[c]) - case.value(t)))
    return behavioural_cloning(cases) + total / count_imitated(cases)


def fingerprint(x) -> int:
    """sum_i mix(bits of x_i + mix(i)) mod 2^32, one element after the other."""

    def mix(h):
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        return h ^ (h >> 16)

    size, raw = x.dtype.itemsize, x.tobytes()
    elements = [int.from_bytes(raw[i * size : (i + 1) * size], "little") for i in range(x.size)]
    return sum(mix((b + mix(i)) % 2**32) for i, b in enumerate(elements)) % 2**32


def auc_slowly(scores, right, groups):
    """Over all pairs of a right and a wrong answer of one group."""
    answers, won, pairs = list(zip(scores, right, groups, strict=True)), 0, 0
    for score, _, group in (a for a in answers if a[1]):
        for other, *_ in (a for a in answers if not a[1] and a[2] == group):
            won += 1 if score > other else 0.5 if score == other else 0
            pairs += 1
    return won / pairs if pairs else None


def nf4(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(levels, scales, floats) of weights [..., D, F] in NF4, one weight at a time.

    The 16 levels are those of Dettmers et al. 2023 (Appendix E), by their definition: quantiles of the
    normal distribution, 8 up to 0 and 9 from it on, divided by the largest.
    """
    inside = 1 - (1 / 30 + 1 / 32) / 2  # the probability below the last level
    normal = statistics.NormalDist()
    above = [normal.inv_cdf(p) for p in np.linspace(inside, 0.5, 9)[:-1]]
    below = [-normal.inv_cdf(p) for p in np.linspace(inside, 0.5, 8)[:-1]]
    levels = np.sort(np.array([*below, 0.0, *above]) / max(above))
    codes, floats = np.zeros(w.shape, int), np.zeros(w.shape)
    scales = np.ones((*w.shape[:-2], w.shape[-2] // 64, w.shape[-1]))
    for index in np.ndindex(scales.shape):
        *layer, tile, column = index
        rows = range(64 * tile, 64 * tile + 64)
        largest = max(abs(w[*layer, row, column]) for row in rows)
        scales[index] = largest or 1.0
        for row in rows:
            place = (*layer, row, column)
            codes[place] = np.argmin(abs(levels - w[place] / scales[index]))
            floats[place] = levels[codes[place]] * scales[index]
    return codes, scales, floats
