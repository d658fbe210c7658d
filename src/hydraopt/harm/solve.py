"""Search by harm: trials of all tasks, their curves, own prices, and new trials at these prices.

A size is shared out for the least total cost or, with "fair", for the least harm of the worst task.
A limit on harm holds for each task. Curves depend on the weights of the other tasks, because tasks
share bases, so the chosen prices are measured again and the curves corrected, in a few rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from hydraopt.errors import BudgetError, UsageError, explain
from hydraopt.harm.curves import HarmCurve
from hydraopt.harm.sharing import (
    Costs,
    costs_of,
    part_of_the_way,
    prices_for_limit,
    prices_for_size,
    prices_if_fair,
)
from hydraopt.harm.trials import Trials
from hydraopt.linalg.shapes import Array
from hydraopt.merging.budget import HarmLimit, MeanError, Size
from hydraopt.merging.draft import Draft, UnreadableError
from hydraopt.merging.look import DEFAULT_HARM, HarmJudge, HarmSolution
from hydraopt.merging.options import check_harm_limit, check_prompted, coded_names
from hydraopt.merging.outcome import Job, Measured
from hydraopt.merging.solving import Options, passes_of, price_of, search
from hydraopt.merging.weights import importances, weights_of
from hydraopt.values import listed

__all__ = ["TRIALS", "solve_by_harm"]

_STEPS: Final = (1 / 9, 1 / 3, 3.0, 9.0)
"""Prices of the trials for a size, over the one that meets it with all tasks alike."""
_FIRST_ERROR: Final = 0.5
"""Mean error of the first trial for a limit."""
_FINER: Final = 1 / 6
"""Ratio of the price of a finer trial to the price of the trial before."""
_MOST_TRIALS: Final = 9
_MOST_COARSER: Final = 4
_FALLS: Final = 0.95
"""Largest ratio of a stream's bytes in a coarser trial to those before. Above it, trials end."""
_CURVES: Final = 0.25
"""Largest share of the bytes left for coded data that curves may take; else they are not kept."""
_ROUNDS: Final = 3
"""Number of times that a size is shared out and measured."""
TRIALS: Final = 1 + len(_STEPS) + _ROUNDS
"""Number of points of a curve for a size."""
_MOST_TRIES: Final = 8
"""Maximum number of rounds at chosen prices, for a limit."""
_AIM, _MET = 0.85, 0.5
"""Shares of a limit: harm that prices aim at, and harm from which a task's price is not raised."""
_SLACK: Final = 1.05
"""Tolerance on the bytes that a task has a use for: a size is met by all tasks' prices together."""
_BACK: Final = 1 / 2
"""Largest ratio of the next price to the present one for a task beyond its limit."""


def solve_by_harm(
    job: Job,
    aim: Size | HarmLimit,
    options: Options,
    judge: HarmJudge,
    useful: Mapping[str, float] | None = None,
) -> HarmSolution:
    """Search the draft of a size that does the least harm, or the smallest one within a limit.

    useful: by task, bytes beyond which more are of no use, as of :class:`Trials`.

    Raises UsageError for a limit on harm if a task has no prompts or tasks are weighed; BudgetError
    for an aim that cannot be met.
    """
    check_harm_limit(aim, options.fair, options.importance)
    if isinstance(aim, Size):
        counted, rounds = "lost", 1 + len(_STEPS) + _rounds(job)
    else:
        counted, rounds = aim.counted, _MOST_TRIALS + _MOST_COARSER + _MOST_TRIES
        check_prompted(coded_names(job.pieces), judge.tasks())
    exact = isinstance(aim, Size)  # a limit ends the rounds early where it is met
    trials = Trials(
        job, judge, counted, rounds, exact=exact, useful=useful, progress=options.progress
    )
    with passes_of(job, replace(options, progress=trials.report)) as trials.passes:
        _weigh(trials, aim, options)
        if isinstance(aim, Size):
            trials.measure_base()
            alike = _try_for_size(trials, aim)
            trials.first_choice = trials.rounds
            return _solve_size(trials, alike, aim, options)
        _try_for_limit(trials, aim)
        trials.most_rounds = trials.rounds + _MOST_TRIES
        trials.first_choice = trials.rounds
        return _solve_limit(trials, aim, options)


def _weigh(trials: Trials, aim: Size | HarmLimit, options: Options) -> None:
    """Set the weights of the trials, and make room in the job for measured harm."""
    pieces = trials.job.pieces
    weights = weights_of(
        pieces,
        trials.passes.energies(),
        options.measure,
        importances(pieces, options.importance),
        options.sensitivity,
    )
    totals = np.where(weights.counting.totals > 0, weights.counting.totals, 1.0)
    trials.weights = replace(weights, by_task=_same(weights.by_task, 1 / totals))
    trials.plain = trials.weights.by_task / weights.by_task
    empty = Draft.empty(trials.weights.whole, trials.weights.counting)
    trials.job, trials.keeps = _with_room(trials.job, aim, trials.judge, empty)


def _rounds(job: Job) -> int:
    """Return how often a size is shared out; a single content gets all of it."""
    return _ROUNDS if job.pieces.contents > 1 else 0


def _with_room(job: Job, aim: Size | HarmLimit, judge: HarmJudge, empty: Draft) -> tuple[Job, bool]:
    """Return the job with stand-ins for measured harm, and whether curves are kept.

    A size counts the manifest, whose harms are known only at the end. Curves are no reason to
    refuse a size. Harms that tasks have already, as in a bundle, stay.
    """
    known = {task.name for task in job.pieces.tasks if task.curve}
    names = sorted(judge.tasks() - known)
    made = {x: replace(job, measured=Measured.unlike(names, x)) for x in (0, TRIALS)}
    if not isinstance(aim, Size):
        return made[TRIALS], True
    least, more = (made[x].value(aim, empty) for x in (0, TRIALS))
    keeps = more - least <= _CURVES * max(aim.limit - least, 0.0)
    return made[TRIALS if keeps else 0], keeps


def _same(by_task: Array, wanted: Array) -> Array:
    """Return ``wanted`` at the scale of ``by_task``, so that a price means the same."""
    same: Array = wanted * (by_task.sum() / wanted.sum() if wanted.sum() > 0 else 1.0)
    return same


def _try_for_size(trials: Trials, aim: Size) -> Draft:
    """Try all tasks at the same relative weight: at the price that meets the size, and around it.

    Returns the draft that meets the size.
    """
    solution = search(trials.passes, trials.job, aim, trials.weights)
    trials.pass_count += solution.passes
    alike = np.full(trials.contents, solution.draft.price)
    trials.measure(solution.draft, alike, trials.prompted())
    for step in _STEPS:
        trials.run(step * alike, trials.prompted())
    return solution.draft


def _try_for_limit(trials: Trials, aim: HarmLimit) -> None:
    """Try from coarse to fine, until every task has been on both sides of the limit.

    A task that has been on both sides is not measured again. Tasks that keep the limit easily in
    the first trial are tried at coarser prices.
    """
    first = price = price_of(MeanError(_FIRST_ERROR), trials.job, trials.weights)
    left = trials.prompted()
    for count in range(_MOST_TRIALS):
        trials.run(np.full(trials.contents, price), left)
        if aim.shares:
            _check_several(trials.of_one_answer(aim.limit))
        within = {i for i in left if trials.harms[-1][i] <= aim.limit}
        left -= within if count else set()  # a curve needs two points
        if not left:
            break
        price *= _FINER
    _try_coarser(trials, aim, first)


def _try_coarser(trials: Trials, aim: HarmLimit, price: float) -> None:
    """Try prices above the coarsest, ``price``, for tasks that were far within the limit."""
    left, before = trials.prompted(), 0
    for _ in range(_MOST_COARSER):
        left = {i for i in left if trials.harms[before][i] < _MET * aim.limit}
        if not left:
            return
        price /= _FINER
        trials.run(np.full(trials.contents, price), left)
        left = {i for i in left if trials.sizes[-1][i] < _FALLS * trials.sizes[before][i]}
        before = trials.rounds - 1


def _prices(
    trials: Trials, curves: Mapping[int, HarmCurve], aim: Size | HarmLimit, options: Options
) -> Array:
    """Return the own prices of all contents, (contents,)."""
    known = sorted(curves)
    if not known:
        return np.full(trials.contents, trials.prices[0][0])
    mine = [curves[i] for i in known]
    if isinstance(aim, Size):
        logs = np.log([curve.prices[len(curve.prices) // 2] for curve in mine])
        middle = _with_others(trials, known, np.full(len(known), np.exp(logs.mean())))
        others = [i for i in range(trials.contents) if i not in curves]
        spent = sum(trials.size_near(i, float(middle[i])) for i in others)
        coded = _coded_bytes(trials, aim) - spent
        counted = mine, _costs_of(trials, known, options), coded
        if options.fair:
            chosen = prices_if_fair(*counted)
        else:
            plain, answers = trials.plain[known], trials.answers[known]
            chosen = part_of_the_way(mine, prices_for_size(*counted), plain, answers, coded)
    else:
        chosen = prices_for_limit(mine, _AIM * aim.limit)
    return _with_others(trials, known, chosen)


def _with_others(trials: Trials, known: Sequence[int], chosen: Array) -> Array:
    """Return the own prices of all contents, (contents,).

    Contents without a curve move as far from their prices without prompts as the ``known`` ones do
    on average.
    """
    moved = np.exp(np.log(chosen / trials.plain[known]).mean())
    prices: Array = moved * trials.plain
    prices[known] = chosen
    return prices


def _costs_of(trials: Trials, contents: Sequence[int], options: Options) -> Costs:
    """Return the function from harms to costs of these contents."""
    weights = importances(trials.job.pieces, options.importance, worst=options.fair)
    most = None if trials.most is None else trials.most[contents]
    return costs_of(weights[contents], most, options.fair)


def _coded_bytes(trials: Trials, aim: Size) -> float:
    """Return the bytes of a size without header, manifest and carried data."""
    around = trials.job.value(aim, Draft.empty(trials.weights.whole, trials.weights.counting))
    return max(aim.limit - around, 1.0)


def _solve_size(trials: Trials, alike: Draft, aim: Size, options: Options) -> HarmSolution:
    """Share out, measure and correct; return the best of what was measured.

    The best draft gives tasks the fewest bytes that they have no use for, and then costs least. The
    draft with all tasks alike takes part.
    """

    def cost(harms: Array) -> float:
        known = np.flatnonzero(np.isfinite(harms)).tolist()
        costs = _costs_of(trials, known, options)(harms[known, None])
        return float(costs.max(initial=0.0) if options.fair else costs.sum())

    useful = trials.useful_bytes()

    def rank(number: int) -> tuple[float, float]:
        sizes = trials.sizes[number].tolist()
        wasted = sum(max(sizes[i] - _SLACK * size, 0.0) for i, size in useful.items())
        return wasted, cost(trials.harms[number])

    least, best, chosen = rank(0), alike, 0
    prices = _prices(trials, trials.curves(), aim, options)
    for _ in range(_rounds(trials.job)):
        price, weights = trials.weighed(prices)
        try:
            solution = search(trials.passes, trials.job, aim, weights, start=price)
        except (BudgetError, UnreadableError):  # what was measured meets the size
            break
        trials.pass_count += solution.passes
        trials.measure(solution.draft, prices * (solution.draft.price / price), trials.prompted())
        if (now := rank(-1)) < least:
            least, best, chosen = now, solution.draft, trials.rounds - 1
        prices = _prices(trials, trials.curves(), aim, options)
        if best is not solution.draft:
            # It went too far, because measurements of single tasks are noisy: go half the way.
            prices = np.sqrt(trials.prices[chosen] * prices)
    return trials.solution(best, chosen)


def _solve_limit(trials: Trials, aim: HarmLimit, options: Options) -> HarmSolution:
    """Lower the price of tasks beyond the limit, and raise that of tasks far within it."""
    drafts: dict[int, Draft] = {}
    prices = _prices(trials, trials.curves(), aim, options)
    for count in range(_MOST_TRIES):
        draft = trials.run(prices, trials.prompted())
        harms = trials.harms[-1]
        beyond = np.flatnonzero(harms > aim.limit)
        if not draft.readable:  # All of it is too coarse, whatever it does to the tasks.
            beyond = np.arange(trials.contents)
        # Later tries only lower prices, so that they come to an end.
        raised = draft.readable and count < _MOST_TRIES // 2
        idle = np.flatnonzero(np.nan_to_num(harms) < _MET * aim.limit) if raised else beyond[:0]
        if draft.readable:
            drafts[trials.rounds - 1] = draft
        if not beyond.size and not idle.size:
            break
        wanted = _prices(trials, trials.curves(), aim, options)
        before, prices = prices, prices.copy()
        prices[beyond] = np.minimum(wanted[beyond], _BACK * prices[beyond])
        prices[idle] = np.maximum(wanted[idle], prices[idle])
        if np.array_equal(before, prices):  # idle tasks have no coarser price
            break
    within = [
        (draft.coded_bytes, number)
        for number, draft in drafts.items()
        if not (trials.harms[number] > aim.limit).any()
    ]
    if within:
        number = min(within)[1]
        return trials.solution(drafts[number], number)
    if not draft.readable:
        raise UnreadableError(draft)
    raise _unmet(trials, aim)


def _unmet(trials: Trials, aim: HarmLimit) -> BudgetError:
    """Return the error that names the task which is furthest beyond the limit."""
    harms = np.nan_to_num(trials.harms[-1])
    worst = int(np.argmax(harms))
    do = "a larger limit, or --lossless"
    if trials.answers[worst] < DEFAULT_HARM.prompts:  # more would not be judged
        do = f"more prompts of this task, {do}"
    return BudgetError(
        explain(
            f"the limit on harm cannot be kept: {aim.text}",
            adapter=trials.worst_task(worst),
            got=f"{aim.said(float(harms[worst]))}, standard errors added, at a relative "
            f"error of {trials.errors[-1][worst]:.3g}",
            do=f"Give {do}",
        )
    )


def _check_several(names: Sequence[str]) -> None:
    """Raise UsageError for tasks, if any, whose share of changed answers rests on one answer."""
    if names:
        raise UsageError(
            explain(
                "a limit on harm needs several prompts for every task",
                got=f"one prompt of {listed(names)}, which tells nothing of others",
                do="Add different ones, 64 or more, or give --size or --error instead",
            )
        )
