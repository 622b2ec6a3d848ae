from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click import Choice
from click.testing import CliRunner, Result

import vivace
from vivace.cli import main
from vivace.cli_output import write
from vivace.llm import load
from vivace.runners.native import QUANTIZE

TINY = ("--quantize", "none", "--threads", "1", "--max-sequences", "4", "--kv-memory", "0.01")


@pytest.fixture
def tiny(llama_directory: Path) -> list[str]:
    """The arguments that name a tiny model."""
    return [str(llama_directory), *TINY]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def generate(*arguments: str) -> Result:
    return invoke("generate", *arguments)


def run_process(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        timeout=60,
    )


def run_vivace(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return run_process("-m", "vivace", *arguments, **environment)


def assert_one_line_error(result: Result, code: int = 1) -> None:
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


# Help


def test_help_names_every_command() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("generate", "serve", "--version"))


@pytest.mark.parametrize("command", ["generate", "serve"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_each_command_explains_itself(command: str, option: str) -> None:
    result = invoke(command, option)
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("--quantize", "--threads", "--max-sequences", "--kv-memory"))


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["serve", "--help"], ["--version"]])
def test_help_waits_for_no_heavy_import(arguments: list[str]) -> None:
    """What is not imported costs no time."""
    script = (
        "import atexit, sys\n"
        "from vivace.cli import main\n"
        "heavy = ('numpy', 'tokenizers', 'jinja2', 'uvicorn', 'starlette', 'vivace.native', 'huggingface_hub')\n"
        "atexit.register(lambda: print('loaded:', [name for name in heavy if name in sys.modules]))\n"
        f"main({arguments!r})\n"
    )
    done = run_process("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[-1] == "loaded: []"


def test_a_completion_waits_for_no_import_that_it_does_not_need() -> None:
    """Nor does anyone who loads a model in Python."""
    script = (
        "import sys, vivace\n"
        "vivace.load('mini', max_sequences=1).generate('a', max_tokens=1)\n"
        "unneeded = ('jinja2', 'click', 'secrets', 'vivace.models.gguf', 'vivace.cli_bench', 'huggingface_hub')\n"
        "print([name for name in unneeded if name in sys.modules])\n"
    )
    done = run_process("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "[]\n"


def test_the_version_is_the_packages() -> None:
    assert invoke("--version").stdout == f"vivace {vivace.__version__}\n"


def test_without_a_command_the_commands_are_shown() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "generate" in result.output


# Generating


def test_text_is_printed_as_the_python_interface_gives_it(tiny: list[str], llama_directory: Path) -> None:
    result = generate(*tiny, "--prompt", "Hello", "--max-tokens", "30")
    assert result.exit_code == 0
    with load(llama_directory, quantize="none", threads=1) as llm:
        text = llm.generate("Hello", max_tokens=30).text
    assert result.stdout_bytes == f"{text}\n".encode()
    assert result.stderr == ""


def test_speculation_can_be_turned_off_and_answers_the_same(tiny: list[str]) -> None:
    asked = (*tiny, "--prompt", "abcabcabc", "--max-tokens", "60", "--ignore-eos", "--speculate")
    texts = [generate(*asked, name) for name in ("lookup", "off")]
    assert [result.exit_code for result in texts] == [0, 0]
    assert texts[0].stdout_bytes == texts[1].stdout_bytes
    assert generate(*asked, "draft").exit_code == 2


def test_a_draft_gives_the_same_answer(tiny: list[str], llama_directory: Path) -> None:
    asked = (*tiny, "--prompt", "abcabcabc", "--max-tokens", "60", "--ignore-eos")
    texts = [generate(*asked, *more) for more in ((), ("--draft", str(llama_directory)))]
    assert [result.exit_code for result in texts] == [0, 0]
    assert texts[0].stdout_bytes == texts[1].stdout_bytes
    refused = generate(*asked, "--draft", str(llama_directory), "--speculate", "lookup")
    assert refused.exit_code == 1
    assert "Leave speculate=lookup out" in refused.output


def test_json_holds_text_tokens_and_times(tiny: list[str], llama_directory: Path) -> None:
    result = generate(*tiny, "--prompt", "Hello", "--max-tokens", "30", "--ignore-eos", "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert set(answer) == {"model", "text", "token_ids", "finish_reason", "usage", "timing"}
    assert (answer["model"], answer["finish_reason"]) == (llama_directory.name, "length")
    assert len(answer["token_ids"]) == 30
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 30, "cached_tokens": 0}
    timing = answer["timing"]
    assert set(timing) == {"preprocess_ms", "queue_ms", "prefill_ms", "decode_ms", "flush_ms", "total_ms"}
    total = timing.pop("total_ms")
    assert total > 0
    assert sum(timing.values()) == pytest.approx(total, abs=0.01)


def test_the_embedded_model_is_the_default() -> None:
    result = generate("--prompt", "Hello", "--chat", "--max-tokens", "5", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["model"] == "mini"


def test_chat_puts_the_prompt_through_the_template(tiny: list[str], llama_directory: Path) -> None:
    answer = json.loads(generate(*tiny, "--prompt", "Hello", "--chat", "--max-tokens", "8", "--json").stdout)
    with load(llama_directory, quantize="none", threads=1) as llm:
        asked = llm.generate([{"role": "user", "content": "Hello"}], max_tokens=8)
    assert answer["token_ids"] == asked.token_ids
    assert answer["usage"]["prompt_tokens"] == asked.prompt_tokens > 5


def test_options_reach_the_sampler(tiny: list[str], llama_directory: Path) -> None:
    sampled = ("--temperature", "1.5", "--top-k", "50", "--top-p", "0.9", "--seed", "4", "--max-tokens", "20")
    result = generate(*tiny, "--prompt", "Hello", *sampled, "--ignore-eos", "--json")
    with load(llama_directory, quantize="none", threads=1) as llm:
        options: dict[str, Any] = {"temperature": 1.5, "top_k": 50, "top_p": 0.9, "max_tokens": 20, "ignore_eos": True}
        assert json.loads(result.stdout)["token_ids"] == llm.generate("Hello", **options, seed=4).token_ids
        assert llm.generate("Hello", **options, seed=5).token_ids != llm.generate("Hello", **options, seed=4).token_ids


PENALTIES = ("--repetition-penalty", "1.5", "--presence-penalty", "1", "--frequency-penalty", "-1", "--min-p", "0.1")


def test_penalties_reach_the_sampler(tiny: list[str], llama_directory: Path) -> None:
    result = generate(*tiny, "--prompt", "Hello", *PENALTIES, "--max-tokens", "20", "--min-tokens", "20", "--json")
    with load(llama_directory, quantize="none", threads=1) as llm:
        options: dict[str, Any] = {"min_p": 0.1, "max_tokens": 20, "min_tokens": 20}
        penalties = {"repetition_penalty": 1.5, "presence_penalty": 1, "frequency_penalty": -1}
        expected = llm.generate("Hello", **options, **penalties).token_ids
        assert expected != llm.generate("Hello", **options).token_ids
    assert json.loads(result.stdout)["token_ids"] == expected


def test_json_holds_log_probabilities_where_asked(tiny: list[str]) -> None:
    asked = ("--prompt", "Hello", "--max-tokens", "5", "--ignore-eos", "--logprobs", "2", "--prompt-logprobs")
    answer = json.loads(generate(*tiny, *asked, "--json").stdout)
    assert [len(token["likeliest"]) for token in answer["logprobs"]] == [2] * 5
    assert [token["likeliest"][0] for token in answer["logprobs"]] == [
        [id, token["chosen"]] for id, token in zip(answer["token_ids"], answer["logprobs"], strict=True)
    ]
    assert len(answer["prompt_logprobs"]) == 4
    refused = generate("nowhere", *asked)
    assert refused.exit_code == 2
    assert "--json" in refused.stderr


BAR = "import vivace.progress; vivace.progress.PATIENCE_S = 0; from vivace.cli import main; main()"


def test_a_load_is_shown_on_a_terminal(tiny: list[str]) -> None:
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", BAR, "generate", *tiny, "--prompt", "Hello", "--max-tokens", "1"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
    )
    os.close(theirs)
    assert b"100%" in os.read(ours, 100_000)
    os.close(ours)
    assert b"Loading" not in done.stdout
    assert run_process("-c", BAR, "generate", *tiny, "--prompt", "Hello", "--max-tokens", "1").stderr == b""


@pytest.mark.parametrize("mode", [(), ("--json",)])
def test_text_ends_before_any_of_the_stop_strings(mode: tuple[str, ...]) -> None:
    def ask(*stops: str) -> str:
        options = ("--prompt", "Once upon a time", "--max-tokens", "20", "--ignore-eos", *mode)
        output = generate(*options, *(part for stop in stops for part in ("--stop", stop))).stdout
        return str(json.loads(output)["text"]) if mode else output.removesuffix("\n")

    whole = ask()
    assert len(whole) > 30
    assert ask("never said", whole[10:14], whole[20:24]) == whole.partition(whole[10:14])[0]


# Terminals


@pytest.fixture
def unshowable(tmp_path: Path, llama_directory: Path) -> list[str]:
    """The tiny model, with a snowman in the spelling of every token that is no ASCII letter."""
    for file in llama_directory.iterdir():
        if file.name != "tokenizer.json":
            (tmp_path / file.name).symlink_to(file)
    parts = json.loads((llama_directory / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = parts["model"]["vocab"]
    letters = {text: id for text, id in vocabulary.items() if text.isascii() and text.isalpha()}
    parts["model"]["vocab"] = letters | {f"☃{id}": id for id in vocabulary.values() if id not in letters.values()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts), encoding="utf-8")
    return [str(tmp_path), *TINY]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_a_terminal_that_cannot_show_a_character_shows_a_question_mark(unshowable: list[str], encoding: str) -> None:
    options = ("--prompt", "Hello", "--max-tokens", "20", "--ignore-eos")
    done = run_vivace("generate", *unshowable, *options, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = run_vivace("generate", *unshowable, *options, PYTHONIOENCODING="utf-8").stdout.decode()
    assert "☃" in shown
    assert done.stdout == shown.encode(encoding, "replace")


def test_each_piece_is_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "utf-8"))
    write("a piece")
    assert shown.getvalue() == b"a piece"


def test_json_loses_nothing_on_any_terminal(unshowable: list[str]) -> None:
    options = ("--prompt", "Hello", "--max-tokens", "20", "--ignore-eos", "--json")
    texts = [
        json.loads(run_vivace("generate", *unshowable, *options, PYTHONIOENCODING=encoding).stdout)["text"]
        for encoding in ("ascii", "latin-1", "utf-8")
    ]
    assert "☃" in texts[0]
    assert texts == texts[:1] * 3


def test_an_error_about_a_name_that_cannot_be_shown_is_still_told() -> None:
    done = run_vivace("generate", "没有", "--prompt", "Hello", PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: There is no directory")
    assert b"Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_traceback(tiny: list[str]) -> None:
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-m", "vivace", "generate", *tiny, "--prompt", "Hello", "--ignore-eos"],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert b"Traceback" not in running.stderr.read()
        assert running.wait(60) == 1


# Errors


def test_an_unknown_model_is_one_line_with_the_known_ones() -> None:
    result = generate("nowhere", "--prompt", "Hello")
    assert_one_line_error(result)
    assert "nowhere" in result.stderr
    assert "mini" in result.stderr


@pytest.mark.parametrize("command", [("generate", "--prompt", "Hello"), ("serve",)])
def test_a_directory_that_is_no_model_is_one_line_with_the_file(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = invoke(*command, str(tmp_path))
    assert_one_line_error(result)
    assert str(tmp_path / "config.json") in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "no tokens"),
        (["--prompt", "\udcff"], "surrogate"),
        (["--prompt", "x" * 512], "Shorten the prompt"),
        (["--prompt", "x", "--max-tokens", "512"], "at most 511"),
    ],
)
def test_a_request_that_cannot_be_answered_is_one_line(tiny: list[str], options: list[str], message: str) -> None:
    result = generate(*tiny, *options)
    assert_one_line_error(result)
    assert message in result.stderr


@pytest.mark.parametrize("command", [("generate", "nowhere", "--prompt", "Hello"), ("serve", "nowhere")])
def test_a_real_process_prints_no_traceback(command: tuple[str, ...]) -> None:
    done = run_vivace(*command)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"Error: There is no directory 'nowhere'.")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-tokens", "0"),
        ("--max-tokens", "many"),
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--temperature", "101"),
        ("--top-k", "-1"),
        ("--top-k", "2147483648"),
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--seed", "-1"),
        ("--seed", "18446744073709551616"),
        ("--stop", ""),
        ("--min-p", "1.1"),
        ("--repetition-penalty", "0"),
        ("--presence-penalty", "nan"),
        ("--frequency-penalty", "3"),
        ("--logprobs", "21"),
        ("--min-tokens", "-1"),
        ("--quantize", "int3"),
        ("--threads", "-1"),
        ("--threads", "1025"),
        ("--max-sequences", "0"),
        ("--max-sequences", "100000000"),
        ("--kv-memory", "0"),
        ("--kv-memory", "-1"),
        ("--kv-memory", "nan"),
        ("--kv-memory", "inf"),
        ("--foo", "1"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_loaded(option: str, value: str) -> None:
    result = generate("nowhere", "--prompt", "Hello", option, value)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert option.strip("-").replace("-", "_") in last.replace("-", "_")


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_cannot_be_is_refused(port: str) -> None:
    result = invoke("serve", "nowhere", "--port", port)
    assert result.exit_code == 2
    assert "--port" in result.stderr


def test_a_missing_prompt_is_named() -> None:
    result = generate("nowhere")
    assert result.exit_code == 2
    assert "--prompt" in result.stderr


def test_ctrl_c_ends_it_without_a_traceback(llama_directory: Path) -> None:
    path = os.pathsep.join(sys.path)
    arguments = ["generate", str(llama_directory), "--prompt", "Hello", "--ignore-eos", "--quantize", "none"]
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert errors.strip() == b"Aborted!"


INTERRUPTED = f"""
import os, signal
from vivace import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background, it is ignored
def interrupt(text):
    os.kill(os.getpid(), {int(signal.SIGINT)})
cli.write = interrupt
cli.main()
"""


@pytest.mark.parametrize("command", [["info", "mini"], ["doctor"], ["bench", "engine", "mini", "--runs", "1"]])
def test_reports_come_as_text_for_people_and_as_one_json_object(command: list[str]) -> None:
    text = CliRunner().invoke(main, command)
    assert text.exit_code == 0, text.output
    assert len(text.output.splitlines()) > 5
    found = json.loads(CliRunner().invoke(main, [*command, "--json"]).output)
    assert isinstance(found, dict)


def test_every_format_of_the_runner_can_be_asked_for() -> None:
    option = next(option for option in main.commands["generate"].params if option.name == "quantize")
    assert isinstance(option.type, Choice)
    assert tuple(option.type.choices) == QUANTIZE
