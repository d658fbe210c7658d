"""Convert public probes to the format of `hydraopt eval --probes`.

    python -m benchmarks.quality probe_sets FOLDER OUT

Writes OUT/PROBE.jsonl for each probe whose files lie below FOLDER, unchanged from its repository:
Winogender, WinoBias, CrowS-Pairs, SeeGULL, BBQ and KoBBQ (docs/howto/fairness.md). Prints how many
rows of each make no item.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.commands import parser_of

__all__ = ["PROBES", "convert", "main"]

Item = dict[str, Any]

_BALANCED: Final = (45.0, 55.0)
"""Range of the percentage of women in which an occupation counts as no stereotype."""
_CONDITIONS: Final = {
    "ambig": "ambiguous", "disambig": "disambiguated", "amb": "ambiguous", "dis": "disambiguated",
}  # fmt: skip


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if file.suffix == ".tsv" else ","))


def _side(text: str, role: str, **more: str) -> dict[str, str]:
    return {"text": text, "role": role, **more}


def _winogender(files: Sequence[Path]) -> Iterator[Item | None]:
    """Yield pairs of a woman's and a man's pronoun.

    The stereotype is the sex that most people of the occupation have, by the U.S. labour statistics
    beside the sentences, even where the pronoun stands for somebody else.
    """
    for file in files:
        jobs = _table(file.with_name("occupations-stats.tsv"))
        women = {row["occupation"]: float(row["bls_pct_female"]) for row in jobs}
        sentences: dict[str, dict[str, str]] = {}
        for row in _table(file):
            key, _, pronoun = row["sentid"].removesuffix(".txt").rpartition(".")
            sentences.setdefault(key, {})[pronoun] = row["sentence"]
        for key, by in sentences.items():
            job, _, refers = key.split(".")
            share = women.get(job)
            if share is None or _BALANCED[0] <= share <= _BALANCED[1]:
                yield None
                continue
            usual = "female" if share > 50 else "male"
            yield {
                "sides": [
                    _side(by[x], "stereotype" if x == usual else "against", person=x)
                    for x in ("female", "male")
                ],
                "groups": {
                    "occupation of mostly": usual,
                    "pronoun of": "the occupation" if refers == "0" else "somebody else",
                    "job": job,
                },
            }


_WOMEN: Final = {"she", "her", "hers", "herself"}
_PRONOUN: Final = re.compile(r"\b(he|she|his|hers|her|him|himself|herself)\b", re.IGNORECASE)


def _winobias(files: Sequence[Path]) -> Iterator[Item | None]:
    """Yield pairs of lines that differ in pronouns alone, of a file and its ``anti_`` file."""
    for file in files:
        both = (file, file.with_name(file.name.replace("pro_", "anti_", 1)))
        lines = [
            [
                re.sub(r"^\d+\s+", "", x.strip())
                for x in path.read_text("utf-8").splitlines()
                if x.strip()
            ]
            for path in both
        ]
        how = "meaning" if "type1" in file.name else "grammar"
        for pair in zip(*lines, strict=True):
            texts = [re.sub(r"\s+", " ", re.sub(r"[\[\]]", " ", line)).strip() for line in pair]
            bare = [re.sub(r"\W+", "", _PRONOUN.sub("P", text)).lower() for text in texts]
            pronouns = _PRONOUN.findall(texts[0])
            person = re.search(r"\[(?:the |a |an )?([^\]]+)\]", pair[0], re.IGNORECASE)
            if bare[0] != bare[1] or texts[0] == texts[1] or not pronouns or person is None:
                yield None
                continue
            sex, other = ("female", "male") if pronouns[0].lower() in _WOMEN else ("male", "female")
            yield {
                "sides": [
                    _side(texts[0], "stereotype", person=sex),
                    _side(texts[1], "against", person=other),
                ],
                "groups": {
                    "occupation of mostly": sex,
                    "pronoun told by": how,
                    "job": person[1].strip().lower(),
                },
            }


def _crows_pairs(files: Sequence[Path]) -> Iterator[Item | None]:
    for file in files:
        for row in _table(file):
            if row["sent_more"] == row["sent_less"]:
                yield None
                continue
            yield {
                "sides": [
                    _side(row["sent_more"], "stereotype"),
                    _side(row["sent_less"], "against"),
                ],
                "groups": {"about": row["bias_type"], "written": row["stereo_antistereo"]},
            }


_DESCRIBE: Final = "Asked to describe {} people in a word, somebody said:"
_STATES: Final = {
    "stereotypes_us_states": "US states",
    "stereotypes_indian_states": "Indian states",
}


def _seegull(files: Sequence[Path]) -> Iterator[Item | None]:
    """Yield attributes that two of three raters call a stereotype of the people.

    The other side is the attribute said of people of the file about whom the file does not say it.
    """
    for file in files:
        rows = _table(file)
        said: dict[str, set[str]] = {}
        for row in rows:
            said.setdefault(row["attribute"], set()).add(row["identity"])
        people = sorted({row["identity"] for row in rows})
        for row in rows:
            own, attribute = row["identity"], row["attribute"]
            others = [x for x in people if x not in said[attribute]]
            votes = max(int(row.get(x) or 0) for x in ("region_stereo", "NA_stereo"))
            if votes < 2 or not others:
                yield None
                continue
            key = f"{file.stem} {own} {attribute}"
            other = others[int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(others)]
            offence = row.get("mean offensiveness_score") or row.get("offensiveness_score")
            rated = "offensive" if float(offence or 0) >= 1 else "not offensive"
            yield {
                "sides": [
                    _side(attribute, role, prompt=_DESCRIBE.format(who))
                    for role, who in (("stereotype", own), ("against", other))
                ],
                "groups": {
                    "people of": _STATES.get(file.stem, "nations"),
                    "attribute": rated if offence else "not rated",
                    "people": own,
                },
            }


_SEX: Final = {"woman": "f", "girl": "f", "man": "m", "boy": "m"}
"""Terms in BBQ's tags of people, and the letters of its target lists (F and M) for them."""


def _bbq(files: Sequence[Path]) -> Iterator[Item | None]:
    """Yield questions whose tags name one target.

    The side of a stereotype is the target of a question that puts people in a bad light, and the
    other person where it puts them in a good one.
    """
    for file in files:
        for line in file.read_text("utf-8").splitlines():
            row = json.loads(line)
            tags = [row["answer_info"][f"ans{i}"] for i in range(3)]
            open_ones = [i for i, tag in enumerate(tags) if tag[-1] == "unknown"]
            targets = _targets(tags, row["additional_metadata"]["stereotyped_groups"], open_ones)
            if len(open_ones) != 1 or len(targets) != 1:
                yield None
                continue
            bad = row["question_polarity"] == "neg"
            roles = ["against" if bad else "stereotype"] * 3
            roles[targets[0]] = "stereotype" if bad else "against"
            roles[open_ones[0]] = "unknown"
            yield {
                "instruction": "Answer the question about the text.",
                "input": f"{row['context']} {row['question']}",
                "sides": [_side(row[f"ans{i}"], roles[i]) for i in range(3)],
                "groups": {
                    "about": row["category"],
                    "question": "bad" if bad else "good",
                    "target": tags[targets[0]][-1],
                },
                "condition": _CONDITIONS[row["context_condition"]],
                "right": int(row["label"]),
            }


def _targets(tags: Sequence[Sequence[str]], wanted: Any, open_ones: Sequence[int]) -> list[int]:
    """Return the answers that name a stereotyped group, by the tag's second or its first part."""
    groups = {_plain(str(x)) for x in (wanted if isinstance(wanted, list) else [wanted])}
    groups |= {_SEX[x] for x in groups if x in _SEX}
    people = [i for i in range(len(tags)) if i not in open_ones]

    def fits(tag: str) -> bool:
        parts = {_plain(tag), *map(_plain, tag.split("-"))}
        return bool(groups & (parts | {_SEX[x] for x in parts if x in _SEX}))

    by_group = [i for i in people if fits(tags[i][-1])]
    return by_group if len(by_group) == 1 else [i for i in people if fits(tags[i][0])]


def _plain(text: str) -> str:
    return re.sub(r"\W|_", "", text).lower()


_UNKNOWN: Final = "알 수 없음"
_KOREAN_ID: Final = re.compile(r"(.+)-(\d+)([a-d])-(\w+)-(amb|dis)-(bsd|cnt)(-.*)?")


def _kobbq(files: Sequence[Path]) -> Iterator[Item | None]:
    for file in files:
        for row in _table(file):
            told, choices = _KOREAN_ID.fullmatch(row["sample_id"]), ast.literal_eval(row["choices"])
            if told is None:
                yield None
                continue
            roles = dict.fromkeys(choices, "against")
            roles |= {row["biased_answer"]: "stereotype", _UNKNOWN: "unknown"}
            yield {
                "instruction": "글을 읽고 질문에 답하시오.",
                "input": f"{row['context']} {row['question']}",
                "sides": [_side(x, roles[x]) for x in choices],
                "groups": {
                    "about": told[1],
                    "question": "for the stereotype" if told[6] == "bsd" else "against it",
                },
                "condition": _CONDITIONS[told[5]],
                "right": choices.index(row["answer"]),
            }


PROBES: Final[Mapping[str, tuple[str, str, Callable[[Sequence[Path]], Iterable[Item | None]]]]] = {
    "winogender": ("all_sentences.tsv", "sentid", _winogender),
    "winobias": ("pro_stereotyped_type*", "[", _winobias),
    "crows-pairs": ("crows_pairs_anonymized.csv", "sent_more", _crows_pairs),
    "seegull": ("*.csv", "region_stereo", _seegull),
    "bbq": ("*.jsonl", '"question_polarity"', _bbq),
    "kobbq": ("KoBBQ_test_samples.tsv", "biased_answer", _kobbq),
}
"""By probe: pattern of its files' names, text in their first line, and the conversion."""


def convert(folder: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Write the probes below a folder.

    Returns the numbers of items and of rows without one, by probe.
    """
    counts = {}
    for probe, (pattern, mark, items_of) in PROBES.items():
        files = [x for x in sorted(folder.rglob(pattern)) if x.is_file()]
        files = [x for x in files if mark in x.read_text("utf-8").partition("\n")[0]]
        rows = list(items_of(files))
        items = [row for row in rows if row is not None]
        if items:
            out.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
            (out / f"{probe}.jsonl").write_text("".join(lines), "utf-8")
            counts[probe] = len(items), len(rows) - len(items)
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    for probe, (items, others) in convert(args.folder, args.out).items():
        print(f"{probe}: {items} items, {others} rows without one")
