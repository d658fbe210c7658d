"""Trace the initial A of an adapter's modules to the generator that drew it.

PEFT, kohya and Unsloth draw A from PyTorch's CPU generator (hydraopt.codec.starts). A module
with A (r, n) and B (m, r) takes r n numbers for a first A, m r numbers for a first B, and then the
r n numbers that A starts from. The next module continues there. Training usually moves A little,
so A correlates with consecutive numbers of the generator, whatever the bound of the distribution
and the number type of the file.

The search correlates the beginning of one or two modules with the first numbers of the usual seeds.
From a module that was found it goes on to its neighbours, whatever the order of the modules.

Not traced: numbers drawn on a GPU, in float64 or from a normal distribution (PEFT's
``init_lora_weights="gaussian"``, diffusers), seeds that are not in SEEDS, embeddings, modules that
share a stored pair, and small adapters: all A together need 16,384 values, and one A 1,024.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.codec import BITS, MOST_DRAWN, Drawn, Generator, KnownStart, cores, in_threads
from hydraopt.progress import Progress, silent

if TYPE_CHECKING:
    from hydraopt.adapters.model import Adapter, LowRankModule


SEEDS: Final = (42, 0, 3407, 1, 1234, 1337, 2023, 2024, 2025, 2026, 67280421310721 % 2**32)
"""Seeds that trainers use by default; 3407 is Unsloth's. The last is that of a new generator in
PyTorch, which uses its low 32 bits."""
SEARCHED: Final = 1 << 21
"""Numbers of each seed that are searched for the beginning of a module."""
LEAST_SEARCHED: Final = 16
"""Number of adapters up to which all of them are searched for with every seed."""
SHARE: Final = 1 << 21
"""With so many numbers an adapter is searched for in less than a tenth of the time of coding it."""
_COMPARED: Final = 64
"""Groups of one start that an adapter is compared with, at most."""
_PROBED: Final = 2
"""Maximum number of modules that are searched for."""
_PROBE: Final = 1024
"""Maximum number of values of a module that are compared with the generator's numbers. A module
that is searched for has at least as many."""
_LEAST: Final = 1 << 14
"""Values of all A together below which a start saves too few bytes to be worth a search."""
_CHANCE: Final = 1e-9
"""Probability that a random adapter is traced at all, at most."""
_BLOCK: Final = 1 << 13
"""Length of a Fourier transform. It is the fastest for probes of 1,024 values."""
_BLOCKS: Final = 36
"""Blocks that are transformed at once."""

Values = NDArray[np.float64]


def least_correlation(count: int) -> float:
    """Return the smallest correlation of ``count`` numbers that chance does not reach.

    A sum of uniform numbers with variance 1 and fixed weights of norm 1 exceeds t with a
    probability of at most exp(-t^2 / 2), because uniform numbers are strictly sub-Gaussian. The
    bound allows for every place that a search compares, of each adapter.
    """
    trials = 2 * len(SEEDS) * SEARCHED * _PROBED
    return math.sqrt(2 * math.log(trials / _CHANCE) / max(count, 1))


def traced(adapters: Sequence[Adapter], report: Progress = silent) -> list[Adapter]:
    """Return the adapters, with the initial A of each module that can be traced.

    Some adapters are searched for with all seeds, evenly spread: one for each SHARE of the numbers
    of all, at least LEAST_SEARCHED. The others are searched for with the seeds found in these, so
    that a search is always short beside a merge. The numbers of a seed are drawn once for all
    adapters. Adapters whose initial A is known stay as they are.
    """
    candidates = [_candidates(adapter) for adapter in adapters]
    which = [i for i, x in enumerate(candidates) if sum(map(_size, x.values())) >= _LEAST]
    most = max(sum(adapters[i].numbers for i in which) // SHARE, LEAST_SEARCHED)
    first = {which[k * len(which) // most] for k in range(most)} if len(which) > most else {*which}
    rest = [i for i in which if i not in first]
    found = _found(candidates, sorted(first), SEEDS, report)
    if rest and (seeds := sorted({seed for seed, _ in found.values()}, key=SEEDS.index)):
        found |= _found(candidates, rest, seeds, silent)
    return [
        _with_initial(adapter, *found[i]) if i in found else adapter
        for i, adapter in enumerate(adapters)
    ]


def _found(
    candidates: Sequence[Mapping[str, LowRankModule]],
    which: Sequence[int],
    seeds: Sequence[int],
    report: Progress,
) -> dict[int, tuple[int, Mapping[str, int]]]:
    """Return the seed, and the offsets of modules by path, of the adapters that one of seeds drew.

    As many seeds are searched at a time as there are processors.
    """
    groups, threads = _groups(candidates, which), cores()
    result: dict[int, tuple[int, Mapping[str, int]]] = {}
    for done in range(0, len(seeds) if groups else 0, threads):
        some = seeds[done : done + threads]
        found = in_threads(functools.partial(_searched, groups=groups), some, threads)
        for seed, hits in zip(some, found, strict=True):
            for group, path, offset in hits:
                for i in group.adapters if group in groups else ():
                    offsets = _Trail(Generator(seed), candidates[i]).followed(path, offset)
                    if offsets:
                        result[i] = seed, offsets
                groups = [x for x in groups if x is not group]
        report("tracing starts", done + len(some), len(seeds))
        if not groups:
            break
    return result


def untraced(adapter: Adapter) -> Adapter:
    """Return the adapter without the initial A of its modules."""
    modules = {
        path: dataclasses.replace(module, initial=None) for path, module in adapter.modules.items()
    }
    return dataclasses.replace(adapter, modules=modules)


def _searched(seed: int, groups: Sequence[_Group]) -> list[tuple[_Group, str, int]]:
    """Return the groups found among the numbers of a seed, each with a module and its offset."""
    probes, found = [probe for group in groups for probe in group.probes], []
    for probe, offset in _hits(Generator(seed), probes, range(SEARCHED)):
        group = next(x for x in groups if probe in x.probes)
        probes[:] = [x for x in probes if x not in group.probes]
        found.append((group, probe.path, offset))
    return found


def _with_initial(adapter: Adapter, seed: int, offsets: Mapping[str, int]) -> Adapter:
    """Return the adapter with the initial A of modules. offsets: of their first numbers."""
    modules = dict(adapter.modules)
    ends = {path: offset + _size(modules[path]) for path, offset in offsets.items()}
    ends = {path: end for path, end in ends.items() if end <= MOST_DRAWN}
    start = KnownStart(seed, max(ends.values(), default=0))
    for path in ends:
        initial = Drawn(start, offsets[path], modules[path].r)
        modules[path] = dataclasses.replace(modules[path], initial=initial)
    return dataclasses.replace(adapter, modules=modules)


def _candidates(adapter: Adapter) -> dict[str, LowRankModule]:
    """Return the modules whose A may have been drawn, by path; none if one is known already."""
    if any(module.initial is not None for module in adapter.modules.values()):
        return {}
    return {
        path: module
        for path, module in adapter.modules.items()
        if module.layout == "plain" and module.kind != "embedding" and _size(module)
    }


def _size(module: LowRankModule) -> int:
    """Return the number of values of A."""
    return module.r * module.n


def _before(module: LowRankModule) -> int:
    """Return how many numbers the module takes before those of A."""
    return module.r * (module.n + module.m)


def _beginning(module: LowRankModule) -> Values:
    """Return the first values of A, scaled to norm 1; none if they are zero or not finite."""
    values = module.a.float64().ravel()[:_PROBE]
    largest = np.abs(values).max(initial=0.0)
    if not 0 < largest < np.inf:
        return values[:0]
    values = values / largest
    scaled: Values = values / np.linalg.norm(values)
    return scaled


@dataclass(frozen=True, eq=False)
class _Probe:
    """Beginning of a module, searched for."""

    path: str
    values: Values


@dataclass(frozen=True)
class _Group:
    """Adapters of one start, by index; it is searched for once, with the modules of the first."""

    probes: list[_Probe]
    adapters: list[int]


def _groups(adapters: Sequence[Mapping[str, LowRankModule]], which: Sequence[int]) -> list[_Group]:
    """Return some adapters grouped by start: those with correlated modules have the same start.

    An adapter is compared with the latest groups only, so that the work grows with the adapters.
    """
    groups: list[_Group] = []
    least = least_correlation(_PROBE)
    for i in which:
        probes = list(_probes(adapters[i]))
        same = (
            group
            for group in groups[-_COMPARED:]
            for x, y in zip(group.probes, probes, strict=False)
            if x.path == y.path and float(x.values @ y.values) > least
        )
        group = next(same, None)
        if group is not None:
            group.adapters.append(i)
        elif probes:
            groups.append(_Group(probes, [i]))
    return groups


def _probes(modules: Mapping[str, LowRankModule]) -> Iterator[_Probe]:
    """Yield the beginning of modules that were probably drawn early, each of another type."""
    types: set[str] = set()
    for path in sorted(modules, key=_place_in_model):
        if len(types) == _PROBED:
            return
        if _type(path) not in types and (values := _beginning(modules[path])).size == _PROBE:
            types.add(_type(path))
            yield _Probe(path, values)


def _place_in_model(path: str) -> tuple[list[int], bool, str]:
    """Return a key that sorts modules about as models define them: attention comes first."""
    return [int(x) for x in re.findall(r"\d{1,9}", path)], "att" not in path.lower(), path


def _type(path: str) -> str:
    return re.sub(r"\d+", "", path)


def _hits(
    generator: Generator, probes: Sequence[_Probe], places: range
) -> Iterator[tuple[_Probe, int]]:
    """Yield each probe that begins at one of the places, and where.

    probes: the caller may remove some between two hits; they are searched no further.
    """
    apart = _BLOCK - _PROBE + 1
    once = apart * _BLOCKS
    least = 0.9 * least_correlation(_PROBE) / _scale(_PROBE)  # rounded, so checked again below
    spectra = [(x, np.conj(np.fft.rfft(x.values.astype(np.float32), _BLOCK))) for x in probes]
    numbers = generator.numbers(places.start, _PROBE - 1).astype(np.float32)
    for first in places[::once]:
        if not probes:
            return
        more = generator.numbers(first + _PROBE - 1, once).astype(np.float32)
        numbers = np.concatenate([numbers[-_PROBE + 1 :], more])
        blocks = np.lib.stride_tricks.sliding_window_view(numbers, _BLOCK)[::apart]
        transformed = np.fft.rfft(blocks, norm="ortho")  # numpy is slower without it
        for probe, spectrum in spectra:
            if probe not in probes:
                continue
            likeness = np.fft.irfft(transformed * spectrum, _BLOCK, norm="ortho")[:, :apart]
            place = int(np.argmax(likeness))
            offset = first + place
            if likeness.flat[place] > least and _have_started(
                probe.values, _numbers(generator, offset)
            ):
                yield probe, offset


def _numbers(generator: Generator, offset: int) -> Values:
    """Return the numbers of a seed that a module's values are compared with; none if too far."""
    if not 0 <= offset < MOST_DRAWN:
        return np.zeros(0)
    return generator.numbers(offset, _PROBE).astype(np.float64)


def _have_started(values: Values, numbers: Values) -> bool:
    """Return whether values of norm 1 started from numbers of the generator."""
    if not values.size or numbers.size < values.size:
        return False
    correlation = float(numbers[: values.size] @ values) * _scale(values.size)
    return correlation > least_correlation(values.size)


def _scale(count: int) -> float:
    """Return the factor that gives ``count`` numbers, uniform in +-2^23, a norm of about 1."""
    return math.sqrt(3 / count) / (1 << BITS - 1)


class _Trail:
    """Search for the modules that one seed drew, from one of them in both directions."""

    def __init__(self, generator: Generator, modules: Mapping[str, LowRankModule]) -> None:
        self._generator, self._modules = generator, modules
        self._left = {x: _beginning(modules[x]) for x in sorted(modules, key=_place_in_model)}
        self._types = {path: _type(path) for path in modules}
        self._offsets: dict[str, int] = {}
        # Type of the module that was drawn after (1) or before (-1) one of a type.
        self._beside: dict[tuple[int, str], str] = {}

    def followed(self, path: str, offset: int) -> dict[str, int]:
        """Return the offsets of all modules that are found from one of them."""
        if not _have_started(self._left.get(path, np.zeros(0)), _numbers(self._generator, offset)):
            return {}
        here: tuple[str, int] | None = (path, offset)
        while here is not None:
            self._take(*here)
            self._walk(here[0], -1)
            self._walk(here[0], 1)
            here = self._beyond()
        return self._offsets

    def _take(self, path: str, offset: int) -> None:
        self._offsets[path] = offset
        del self._left[path]

    def _walk(self, path: str, step: int) -> None:
        """Find the modules that were drawn one after the other after (1) or before (-1) one."""
        while self._left:
            expected = self._beside.get((step, self._types[path]))
            likely = [x for x in self._left if self._types[x] == expected][:1]
            found = self._neighbour(path, step, likely) or self._neighbour(path, step, self._left)
            if found is None:
                return
            self._take(*found)
            self._beside[step, self._types[path]] = self._types[found[0]]
            path = found[0]

    def _neighbour(self, path: str, step: int, others: Collection[str]) -> tuple[str, int] | None:
        """Return which of the others was drawn next to a module, with its offset."""
        places: dict[int, list[str]] = {}
        for other in others:
            after = self._end(path) + _before(self._modules[other])
            before = self._begin(path) - _size(self._modules[other])
            places.setdefault(after if step > 0 else before, []).append(other)
        for offset in sorted(places):
            numbers = _numbers(self._generator, offset)
            for other in places[offset]:
                if _have_started(self._left[other], numbers):
                    return other, offset
        return None

    def _beyond(self) -> tuple[str, int] | None:
        """Return a module that was drawn beyond all that are found, with its offset."""
        begin, end = min(map(self._begin, self._offsets)), max(map(self._end, self._offsets))
        probes = list(_probes({path: self._modules[path] for path in self._left}))
        for places in (range(end, end + SEARCHED), range(max(begin - SEARCHED, 0), begin)):
            for probe, offset in _hits(self._generator, probes, places):
                return probe.path, offset
        return None

    def _begin(self, path: str) -> int:
        return self._offsets[path] - _before(self._modules[path])

    def _end(self, path: str) -> int:
        return self._offsets[path] + _size(self._modules[path])
