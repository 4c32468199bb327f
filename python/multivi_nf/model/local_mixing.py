"""What brings groups of cells together where they have counterparts: a local penalty on posterior means.

Samples of z mix long before its means do: what tells two labs apart lies below the posterior's own standard deviation,
where a KL, an adversary or a penalty on samples hardly see it, and users look at means. So the neighbours of a cell's
*mean* are asked which side they come from. Sides are the two groups of batches (or of patterns of measured modalities)
that mix least; they are found while training, from running sums of who neighbours whom. Which cells
of batches have counterparts at all is given (`multivi_nf.training.counterparts`), and cells of two batches that are
told to be of different kinds are kept apart (`strangers`). Evidence and what else was tried:
docs/decisions/batch-integration.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

RANK = 5
"""The squared distance of a cell's neighbour of this rank sets the width of its kernel."""

SHARPNESS = {"joint": 2.0, "leading": 2.0, "measured": 1.0}
"""By comparison, k: the weight of that neighbour is exp(-k) of one at no distance. For batches: at 1 much of the
minibatch are neighbours, and what parts labs within a type is not seen; at 3 fine types of two labs are mistaken for
each other. Modalities of one batch differ less, and pair worse with a sharper kernel."""

FLOOR = 0.3
"""Share of the expected other side's part of a neighbourhood below which a cell is left alone: it has no counterpart,
where nothing else tells.
0.15 where sides are equal; relative, since of a side of 95 % nobody can ask for 15 % of the others."""

SURE_FLOOR = 0.05
"""The same for cells that are known to have counterparts: of labs that differ much all cells begin below `FLOOR`. For
models of one modality, see `CONTENT`."""

DECAY = 0.95
"""Of the running sums, a step: they remember about 20 steps."""

REFRESH = 10
"""Steps between two looks at which groups make up the sides."""

CANDIDATES = 4
"""Ways of splitting the groups that are compared, the slowest to mix first."""


CONTENT = {"joint": 1.5, "leading": 1.5, "alone": 1.2, "measured": 1.3}
"""By comparison, and `alone` for the means of a model of one modality: a penalty is content at this many times what it
costs where groups mix as chance would have it, see `chance`."""

AT_FIRST = {"joint": 2.0, "leading": 2.0}
"""The same while types form: from there it falls to `CONTENT` as the alignment of modalities sets in
(`LocalMixing.asked`). What labs do not all measure tells fine types that the modality they share does not, and asked
for more before types are there, models of several modalities lose these. Where little parts batches they mix by
themselves once types are there, and no penalty acts; labs that lie far apart are still pulled."""

HEARD = 3.0
"""Nats that a neighbourhood full of strangers costs, from which the cost rises as their logarithm only: 95 %."""

DUAL_RATE = 0.02
"""How fast, a step, a penalty's strength rises from 0 to the full one while not content, and falls while it is."""


@dataclass
class Sums:
    """Running sums of one comparison.

    Attributes
    ----------
    flow
        (n_groups, n_groups) float64 weight that cells of group b give to neighbours of group c.
    expected
        (n_groups, n_groups) the same if neighbours kept their stratum and drew their group within it.
    table
        (n_strata, n_groups) cells.
    side
        (n_groups,) bool: the side of each group; all False before there is a split.
    dual
        (2,) the running mean, over cells with counterparts, of the penalty over what it is content with, and the share
        of the full strength that acts.
    """

    flow: torch.Tensor
    expected: torch.Tensor
    table: torch.Tensor
    side: torch.Tensor
    dual: torch.Tensor

    @classmethod
    def empty(cls, n_strata: int, n_groups: int, device: torch.device) -> Sums:
        """Nothing seen yet, at no strength."""
        square = torch.zeros(n_groups, n_groups, dtype=torch.float64, device=device)
        side = torch.zeros(n_groups, dtype=torch.bool, device=device)
        table = square.new_zeros(n_strata, n_groups)
        return cls(square, square.clone(), table, side, square.new_tensor([1.0, 0.0]))

    def to(self, device: torch.device) -> Sums:
        """The same on a device."""
        return Sums(*(tensor.to(device) for tensor in vars(self).values()))


class LocalMixing:
    """The running sums of a training, by what is compared and whose means are looked at.

    What a step saw is added by `step`, after `pending` was summed over processes: a step uses the sides and strengths
    of the steps before it, which therefore are the same in every process and do not depend on how a step is cut into
    parts.

    Parameters
    ----------
    shapes
        Name of a comparison to its numbers of strata and of groups.
    device
        Where the means are.

    Attributes
    ----------
    sums
        By name.
    pending
        By name, what the step that runs saw: flow, expected and table, one below the other, and last a row of the sum
        over cells with counterparts of the penalty over what it is content with, and their number.
    steps
        Steps taken.
    asked
        Share of the way from `AT_FIRST` to `CONTENT`, of the step that runs; training sets it (`Schedule.types_there`).
    """

    def __init__(self, shapes: dict[str, tuple[int, int]], device: torch.device | str = "cpu") -> None:
        self.shapes = shapes
        self.device = torch.device(device)
        self.steps = 0
        self.asked = 1.0
        self.sums = {name: Sums.empty(*shape, self.device) for name, shape in shapes.items()}
        self.forget()

    def charge(
        self,
        name: str,
        mean: torch.Tensor,
        group: torch.Tensor,
        stratum: torch.Tensor | None = None,
        *,
        counterparts: torch.Tensor | None = None,
        note: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean penalty of the cells whose group is known, and what it is content with, nats a cell.

        Parameters
        ----------
        name
            Which comparison.
        mean
            (n, K) posterior means.
        group
            (n,) index of each cell's group, below 0 unknown: such cells neither pay nor count as neighbours.
        stratum
            (n,) index of a part of the cells inside which groups are compared, below 0 unknown: what follows from a
            neighbour's stratum is expected. None is one stratum.
        counterparts
            (n, n_groups) how many cells of each group there are for one of the own among cells of the same kind, below
            0 where that is only assumed (`multivi_nf.training.counterparts`). Cells of which no other group has
            counterparts neither pay nor count; for the others these numbers say what is expected in a model of one
            modality. None: groups are alike.
        note
            Add what was seen to the running sums (training). Otherwise it is content with what it will be at the end,
            so that epochs can be compared.
        """
        stratum = torch.zeros_like(group) if stratum is None else stratum
        known = (group >= 0) & (stratum >= 0)
        n_known = int(known.sum())
        alone = name == "joint" and "leading" not in self.shapes
        amount = None
        if counterparts is not None:
            amount = counterparts.to(mean.device, torch.float64)
            mine = functional.one_hot(group.clamp(min=0), amount.shape[1]).bool()
            known &= amount.masked_fill(mine, 0.0).abs().sum(1) > 0
            amount = amount if alone else None
        known = known.nonzero().squeeze(1)
        if known.numel() < 3:
            return mean.new_zeros(()), mean.new_zeros(())
        mean, group, stratum = mean[known], group[known], stratum[known]
        sums, share = self.sums[name], known.numel() / n_known
        with torch.autocast(mean.device.type, enabled=False):
            weight = neighbourhood(mean if mean.dtype == torch.float64 else mean.float(), SHARPNESS[name])
            expected, drawn = None, None
            floor: torch.Tensor | float = FLOOR
            if amount is not None:
                drawn, least = self._drawn(amount[known], sums.side, group)
                expected = (drawn @ sums.side.to(drawn.dtype)).to(weight.dtype)
                floor = least.to(weight.dtype)
            elif self.shapes[name][0] > 1:
                one = sums.table[:, sums.side].sum(1) / sums.table.sum(1).clamp(min=1e-12)
                expected = weight @ one[stratum].to(weight.dtype)
            cost, free = penalty(weight, sums.side[group], expected, floor)
            content = self._content("alone" if alone else name, falling=note) * chance(weight)
            if note:
                # who has no counterpart cannot be mixed: it must not keep the strength up for all others
                ratio = torch.where(free, cost.detach() / content, 0.0).sum()
                seen = torch.stack([ratio, free.sum()]).double()
                self._note(name, weight.detach().double(), (group, stratum), drawn, seen)
        return cost.mean() * share, content * share

    def _content(self, name: str, *, falling: bool) -> float:
        """How many times `chance` a comparison is content with."""
        last = CONTENT[name]
        return last + (1 - self.asked) * (AT_FIRST.get(name, last) - last) if falling else last

    @staticmethod
    def _drawn(amount: torch.Tensor, side: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, n_groups) expected shares of groups, and (n,) the floor: the usual one where they are only assumed."""
        drawn = amount.abs() / amount.abs().sum(1, keepdim=True)
        other = side != side[group].unsqueeze(1)
        assumed = (drawn * ((amount < 0) & other)).sum(1) > (drawn * other).sum(1) / 2
        return drawn, torch.where(assumed, FLOOR, SURE_FLOOR)

    def _note(
        self,
        name: str,
        weight: torch.Tensor,
        codes: tuple[torch.Tensor, torch.Tensor],
        drawn: torch.Tensor | None,
        ratio: torch.Tensor,
    ) -> None:
        n_strata, n_groups = self.shapes[name]
        # products, not index_add: the same bytes on a GPU
        of, inside = (functional.one_hot(code, n).double() for code, n in zip(codes, (n_groups, n_strata)))
        table = inside.T @ of
        if drawn is None:
            expected = of.T @ weight @ inside @ (table / table.sum(1, keepdim=True).clamp(min=1))
        else:
            expected = of.T @ drawn
        last = torch.zeros_like(table[:1])
        last[0, :2] = ratio
        self.pending[name] += torch.cat([of.T @ weight @ of, expected, table, last])

    def strength(self, name: str) -> torch.Tensor:
        """Scalar: the share of the full strength at which a comparison's penalty acts."""
        return self.sums[name].dual[1]

    def forget(self) -> None:
        """Drop what was seen in a step that was not taken."""
        self.pending = {
            name: torch.zeros(2 * groups + strata + 1, groups, dtype=torch.float64, device=self.device)
            for name, (strata, groups) in self.shapes.items()
        }

    def step(self) -> None:
        """Add what the step saw, move the strengths, and look anew, now and then, which groups mix least."""
        self.steps += 1
        for name, sums in self.sums.items():
            n_strata, n = self.shapes[name]
            flow, expected, table, last = self.pending[name].split([n, n, n_strata, 1])
            sums.flow, sums.expected = DECAY * sums.flow + flow, DECAY * sums.expected + expected
            sums.table = DECAY * sums.table + table
            ratio = DECAY * sums.dual[0] + (1 - DECAY) * last[0, 0] / last[0, 1].clamp(min=1)
            moved = (sums.dual[1] + DUAL_RATE * (ratio - 1)).clamp(0.0, 1.0)
            sums.dual = torch.where(last[0, 1] > 0, torch.stack([ratio, moved]), sums.dual)
            if self.steps <= 2 or self.steps % REFRESH == 0:
                sums.side = sides(sums.flow.cpu(), sums.table.sum(0).cpu(), sums.expected.cpu()).to(self.device)
        self.forget()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything, as named tensors; copies on the host."""
        found = {"steps": torch.tensor([self.steps])}
        for name, sums in self.sums.items():
            found |= {f"{name}.{part}": tensor.to("cpu", copy=True) for part, tensor in vars(sums).items()}
        return found

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Set what :meth:`state_dict` gave."""
        self.forget()
        self.steps = int(tensors["steps"])
        for name, sums in self.sums.items():
            self.sums[name] = Sums(*(tensors[f"{name}.{part}"].clone() for part in vars(sums))).to(self.device)


def neighbourhood(mean: torch.Tensor, sharpness: float = 2.0) -> torch.Tensor:
    """(n, n) weights W_ij = softmax over j != i of -k |mu_i - mu_j|^2 / s_i, s_i the square of the `RANK`-th neighbour.

    Gradients flow through both ends of a distance, none through its scale.
    """
    return torch.softmax(_logits(mean, sharpness), 1)


def _logits(mean: torch.Tensor, sharpness: float) -> torch.Tensor:
    """(n, n) -k |mu_i - mu_j|^2 / s_i, minus infinity on the diagonal; see `neighbourhood`."""
    n = mean.shape[0]
    itself = torch.eye(n, dtype=torch.bool, device=mean.device)
    norm = mean.square().sum(1)
    square = (norm.unsqueeze(1) + norm - 2 * mean @ mean.T).clamp(min=0)
    others = square.detach().masked_fill(itself, math.inf)
    scale = others.kthvalue(min(RANK, n - 1), dim=1).values.clamp(min=1e-6)
    return (-sharpness * square / scale.unsqueeze(1)).masked_fill(itself, -math.inf)


def strangers(
    mean: torch.Tensor,
    group: torch.Tensor,
    counterparts: torch.Tensor,
    told_apart: torch.Tensor,
    sharpness: float,
) -> torch.Tensor:
    """Scalar: how much of cells' neighbourhoods are others' that are known to be of another kind, nats a cell.

    Two cells of two groups are strangers if neither has counterparts in the other's and one of them is told apart.
    With u_i the sum of W_ij over the strangers j of i and c_i = -ln(1 - u_i), the mean of c_i, where c_i is over m =
    `HEARD` of m + ln(1 + c_i - m): a cell among strangers alone is pushed like others, without end neither in cost nor
    in gradient. A cell all others of which are strangers has nowhere to go and costs nothing. Without it what makes one
    map of groups lays types of which each group has one over each other, where they are alike: a decoder that knows the
    group need not be told.

    Parameters
    ----------
    mean
        (n, K) posterior means.
    group
        (n,) index of each cell's group, below 0 unknown: such cells are nobody's strangers, nor neighbours.
    counterparts, told_apart
        (n, n_groups), and bool (`multivi_nf.training.counterparts.looked_at`).
    sharpness
        Of the neighbourhoods.
    """
    known = (group >= 0).nonzero().squeeze(1)
    if known.numel() < 3:
        return mean.new_zeros(())
    mean, group = mean[known], group[known]
    none, told = counterparts[known][:, group] == 0, told_apart[known][:, group]
    none = ((told & none.T) | (none & told.T)) & (group.unsqueeze(1) != group)
    n = len(mean)
    none &= none.sum(1, keepdim=True) < n - 1
    with torch.autocast(mean.device.type, enabled=False):
        logits = _logits(mean if mean.dtype == torch.float64 else mean.float(), sharpness)
        # of logarithms: 1 - u would round to 0, without a gradient
        cost = logits.logsumexp(1) - logits.masked_fill(none, -math.inf).logsumexp(1)
        beyond = (cost - HEARD).clamp(min=0)
        return (cost - beyond + beyond.log1p()).mean()


def chance(weight: torch.Tensor) -> torch.Tensor:
    """Mean penalty, nats, where sides are drawn at random: to second order sum_j W_ij^2 / 4, whatever their shares.

    p_i then has variance pi (1 - pi) sum_j W_ij^2, L is (p - pi)^2 / (2 pi (1 - pi)), and half of the cells pay.
    """
    return weight.detach().square().sum(1).mean() / 4


def penalty(
    weight: torch.Tensor,
    side: torch.Tensor,
    expected: torch.Tensor | None = None,
    floor: torch.Tensor | float = FLOOR,
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much more of each cell's neighbourhood than expected is of its own side.

    With p_i = sum_j W_ij [side_j = side_i] and pi_i the share of i's side among the other cells:
    L_i = pi ln(pi / p) + (1 - pi) ln((1 - pi) / q), q = max(1 - p_i, FLOOR (1 - pi_i)), p = 1 - q, where p > pi, else
    0: the divergence of the neighbourhood's two shares from the expected ones. Below the floor it is constant, so that
    cells without counterparts on the other side are not pulled.

    Parameters
    ----------
    weight
        (n, n) neighbourhoods, rows sum to 1, diagonal 0.
    side
        (n,) bool.
    expected
        (n,) share of the side True that a cell's neighbourhood should have; None: that among the other cells.
    floor
        In place of `FLOOR`, also for each cell.

    Returns
    -------
    (n,) L_i, nats, and (n,) bool, whether the cell is above the floor: it has counterparts.
    """
    same = (side.unsqueeze(1) == side).to(weight.dtype)
    own = (weight * same).sum(1)
    usual = (same.sum(1) - 1) / (side.numel() - 1) if expected is None else torch.where(side, expected, 1 - expected)
    return divergence(own, usual, floor), (1 - own > floor * (1 - usual)).detach()


def divergence(own: torch.Tensor, expected: torch.Tensor, floor: torch.Tensor | float = FLOOR) -> torch.Tensor:
    """L of `penalty` from the share of the own side in neighbourhoods and the share expected."""
    acts = (own > expected + 1e-6) & (expected < 1 - 1e-6)
    pi, p = torch.where(acts, expected, 0.5), torch.where(acts, own, 0.5)
    q = torch.maximum(1 - p, floor * (1 - pi))
    own_part = torch.xlogy(pi, pi) - pi * (1 - q).log()
    return torch.where(acts, own_part + torch.xlogy(1 - pi, 1 - pi) - (1 - pi) * q.log(), torch.zeros_like(own))


def sides(flow: torch.Tensor, mass: torch.Tensor, expected: torch.Tensor | None = None) -> torch.Tensor:
    """(n_groups,) bool: the split of the groups into two sides that mix least.

    R, the rows of `flow` made to sum to 1, is a walk from neighbour to neighbour, and E the expected one; the leading
    eigenvector of sqrt(pi_b) (R_bc - E_bc) / pi_c sqrt(pi_c), symmetrised, over sqrt(pi) tells by its sign the two
    sets of groups that the walk leaves least often (Shi and Malik 2000). One odd group of few cells can be that set for
    good, so the first `CANDIDATES` eigenvectors are compared by the penalty that their split would cost all cells, and
    the dearest is taken.

    Parameters
    ----------
    flow
        (n_groups, n_groups) weight that cells of group b give to neighbours of group c.
    mass
        (n_groups,) cells of each group.
    expected
        (n_groups, n_groups) the flow if groups mixed; None: neighbours in proportion to `mass`.
    """
    side = torch.zeros_like(mass, dtype=torch.bool)
    expected = flow.sum(1, keepdim=True) * mass / mass.sum().clamp(min=1e-300) if expected is None else expected
    seen = ((mass > 0) & (flow.sum(1) > 0)).nonzero().squeeze(1)
    if seen.numel() < 2 or not bool(flow.isfinite().all()):
        return side
    flow, expected, share = flow[seen][:, seen], expected[seen][:, seen], mass[seen] / mass[seen].sum()
    root = share.sqrt()
    excess = root.unsqueeze(1) * (flow - expected) / flow.sum(1, keepdim=True).clamp(min=1e-300) / root
    excess = (excess + excess.T) / 2
    # what stays where everything is mixed is known, sqrt(pi), and no split
    level = torch.eye(seen.numel(), dtype=excess.dtype) - torch.outer(root, root)
    _, vectors = torch.linalg.eigh(level @ excess @ level)
    best, cost = None, 1e-9
    for k in range(min(CANDIDATES, seen.numel())):
        split = vectors[:, -1 - k] / root > 1e-9
        price = _cost(flow, expected, share, split)
        if price > cost:
            best, cost = split, price
    if best is not None:
        side[seen] = best
    return side


def _cost(flow: torch.Tensor, expected: torch.Tensor, share: torch.Tensor, split: torch.Tensor) -> float:
    """Penalty per cell if every cell of a side had its side's average neighbourhood."""
    if split.all() or not split.any():
        return 0.0
    total = 0.0
    for part in (split, ~split):
        own, usual = (f[part][:, part].sum() / f[part].sum().clamp(min=1e-300) for f in (flow, expected))
        total += float(share[part].sum() * divergence(own, usual))
    return total
