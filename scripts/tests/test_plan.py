"""Selections and plans."""

from __future__ import annotations

import json

import pytest

from sage2_capture.errors import DataError, UsageError
from sage2_capture.plan import Plan, format_bytes, parse_bytes
from sage2_capture.selector import Selector


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", list(range(12))),
        ("", list(range(12))),
        ("3", [3]),
        ("0,4,8-10", [0, 4, 8, 9, 10]),
        ("::5", [0, 5, 10]),
        ("1:8:3", [1, 4, 7]),
        ("10:,0", [0, 10, 11]),
        ("25%", [0, 4, 8]),
        ("0.3", [0, 4, 7, 10]),
        ("100%", list(range(12))),
        ([2, 5], [2, 5]),
        (0.5, [0, 2, 4, 6, 8, 10]),
        (7, [7]),
    ],
)
def test_selector_picks(text: object, expected: list[int]) -> None:
    selector = Selector.parse(text)
    assert [i for i in range(12) if selector(i)] == expected


def test_selector_by_name() -> None:
    selector = Selector.parse(r"/blocks\.(0|7)\.attn1$/")
    names = [f"blocks.{i}.attn{j}" for i in range(9) for j in (1, 2)]
    assert [n for i, n in enumerate(names) if selector(i, n)] == ["blocks.0.attn1", "blocks.7.attn1"]


@pytest.mark.parametrize("text", ["x", "3-1", "::0", "0%", "101%", "/(/", "-1", "1,,2", True, ["a"], -3, 0.0, 1.5])
def test_selector_refuses(text: object) -> None:
    with pytest.raises(UsageError, match="layers"):
        Selector.parse(text, "layers")


def test_plan_from_pairs_file_and_back(tmp_path) -> None:
    text = "layers=25% timesteps=::10;heads=0,8 max_tokens=8192 max_bytes=20GB cfg=cond output=on verify=off"
    plan = Plan.parse(text)
    assert (plan.max_tokens, plan.max_bytes, plan.cfg, plan.output, plan.verify) == (
        8192,
        20 * 10**9,
        "cond",
        True,
        False,
    )
    assert plan.heads(8) and not plan.heads(1)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan.to_dict()))
    assert Plan.parse(str(file)).to_dict() == plan.to_dict()


@pytest.mark.parametrize(
    "text",
    ["layer=3", "layers", "max_tokens=0", "max_tokens=many", "max_bytes=5XB", "cfg=both", "output=maybe", "none.json"],
)
def test_plan_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        Plan.parse(text + (" x" if text == "layers" else ""))


def test_plan_refuses_bad_files(tmp_path) -> None:
    for content in ("{", "[]"):
        (tmp_path / "p.json").write_text(content)
        with pytest.raises(DataError, match=r"p\.json"):
            Plan.parse(str(tmp_path / "p.json"))


def test_sizes() -> None:
    assert parse_bytes("1.5KiB") == 1536
    assert parse_bytes("2G") == 2 * 10**9
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(3 * 1024**5) == "3072.0 TiB"
