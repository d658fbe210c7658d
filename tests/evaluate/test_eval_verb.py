"""``hydraopt eval``, from the command line."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from hydraopt.cli.main import cli
from hydraopt.errors import UsageError
from hydraopt.model import load_model
from tests.evaluate.test_run import PATH, factors
from tests.raising import check_refused


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "spell-en"
    folder.mkdir()
    b, a = factors(0.1)[PATH]
    key = f"base_model.model.{PATH}.lora"
    save_file(
        {f"{key}_A.weight": a, f"{key}_B.weight": b}, str(folder / "adapter_model.safetensors")
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "tiny", "bias": "none"})
    )
    return folder


@pytest.fixture
def base(trained, tmp_path):
    model, tokenizer = trained
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def run(*arguments: object):
    return CliRunner().invoke(cli, [str(x) for x in arguments])


def test_adapters_and_bundle_side_by_side(adapter, base, tasks, tmp_path) -> None:
    bundle = tmp_path / "x.hydra.safetensors"
    assert run("merge", adapter, "--error", "0.02", "-o", bundle, "-q").exit_code == 0
    said = run("eval", adapter, bundle, "--base", base, "--tasks", tasks, "-o", tmp_path / "r.json")
    assert said.exit_code == 0, said.output
    assert re.search(r"spell-en +x +exact match +\d", said.output), said.output
    assert "changed" in said.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["schema"] == "hydraopt.eval/1"
    (task,) = result["tasks"]
    assert (task["task"], task["language"], task["rows"]) == ("spell", "en", 10)
    results = task["results"]
    assert set(results) == {"base", "original", "x.hydra.safetensors"}
    assert results["x.hydra.safetensors"]["agreement"] > 90
    assert results["x.hydra.safetensors"]["kl"] < results["base"]["kl"]
    assert set(results["original"]["scores"]) == {"exact match", "chrF"}
    mine = results["x.hydra.safetensors"]
    assert mine["changed_pct"] == pytest.approx(100 * mine["changed"] / 10)
    assert mine["kl_answer"] > 0
    assert not any("changed" in results[name] for name in ("base", "original"))
    change = results["x.hydra.safetensors"]["difference"]["chrF"]
    assert change["low"] <= change["difference"] <= change["high"]
    again = run("eval", adapter, bundle, "--base", base, "--tasks", tasks, "--json", "-q")
    same = json.loads(again.output)
    assert same | {"seconds": 0} == result | {"seconds": 0}


def test_without_generation_only_what_forcing_tells(adapter, base, tasks) -> None:
    said = run("eval", adapter, "--base", base, "--tasks", tasks, "--no-generate", "--json")
    (task,) = json.loads(said.output)["tasks"]
    assert set(task["results"]["original"]["scores"]) == {"exact match"}


def test_answers_are_kept_those_that_change_first(adapter, base, tasks, tmp_path) -> None:
    bundle = tmp_path / "x.hydra.safetensors"
    assert run("merge", adapter, "--error", "0.9", "-o", bundle, "-q").exit_code == 0
    command = ("eval", adapter, bundle, "--base", base, "--tasks", tasks, "-q", "--json")
    plain, kept = (json.loads(run(*command, *more).output) for more in ((), ("--answers", 7)))
    (task,) = kept["tasks"]
    rows = task.pop("answers")
    assert kept | {"seconds": 0} == plain | {"seconds": 0}  # they change no number
    assert len(rows) == 7
    assert set(rows[0]["texts"]) == {"base", "original", bundle.name}
    changes = [bool(row["changed"]) for row in rows]
    assert changes == sorted(changes, reverse=True)
    assert sum(changes) == min(task["results"][bundle.name]["changed"], 7) > 0
    for row in rows:
        one, two = row["texts"]["original"], row["texts"][bundle.name]
        assert row["changed"] or one == two
    said = run(*command, "--answers", 7, "--no-generate")
    assert said.exit_code == 2
    check_refused(said, names="--answers")


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        (["--task", "spell-en"], {"got": "spell-en", "expected": "ADAPTER=TASK/LANGUAGE"}),
        (["--task", "x=spell/en"], {"got": "x", "expected": "spell-en"}),
        (["--task", "spell-en=spell"], {"got": "spell", "expected": "TASK/LANGUAGE"}),
        (["--task", "spell-en=sing/en"], {}),
        (["--split", "train"], {}),
    ],
)
def test_wrong_options_are_refused_before_the_model_loads(adapter, tasks, more, facts) -> None:
    said = run("eval", adapter, "--base", "nowhere", "--tasks", tasks, *more)
    assert said.exit_code == 2
    check_refused(said, UsageError, **facts)


def test_a_task_that_is_not_there_is_traced_to_its_source(adapter, tasks) -> None:
    """The message has the folder that was looked for, what named it, and the option that does."""
    command = ("eval", adapter, "--base", "nowhere", "--tasks", tasks)
    said = run(*command, "--task", "spell-en=spell/de")
    check_refused(said, UsageError, names="--task")
    assert str(tasks / "spell" / "de") in said.output
    (adapter / "score.json").write_text(json.dumps({"task": "sing/en"}))
    said = run(*command)
    check_refused(said, UsageError, names="--task")
    for text in (str(tasks / "sing"), str(adapter / "score.json"), "spell-en"):
        assert text in said.output


@pytest.mark.parametrize("name", ["nowhere", "./some/where", "/some/where/else", "a/b/c"])
def test_a_base_that_is_nowhere_is_not_searched_for_on_the_network(name, monkeypatch) -> None:
    import transformers

    asked = []

    def offline(name: str, *_: object, **__: object) -> None:
        asked.append(name)
        raise OSError

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", offline)
    for one in (name, "owner/name"):
        with pytest.raises(UsageError, match=one):
            load_model(one)
    assert asked == ["owner/name"]


def test_a_file_is_no_base(tmp_path) -> None:
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError):
        load_model(tmp_path / "base.gguf")


@pytest.mark.parametrize("label", ["base", "original"])
def test_a_bundle_called_as_what_it_is_compared_with_is_refused(adapter, tmp_path, label) -> None:
    assert run("merge", adapter, "--error", "0.5", "-o", tmp_path / label, "-q").exit_code == 0
    said = run("eval", adapter, tmp_path / label, "--base", "nowhere", "--tasks", tmp_path)
    assert said.exit_code == 2
    check_refused(said, UsageError)


def test_a_tokenizer_without_eos_is_refused(adapter, base, tasks) -> None:
    file = base / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token"}))
    (base / "special_tokens_map.json").unlink(missing_ok=True)
    said = run("eval", adapter, "--base", base, "--tasks", tasks)
    assert said.exit_code == 2, said.output
    check_refused(said, UsageError, got="a tokenizer without EOS")
