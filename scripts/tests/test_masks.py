"""Masks are read as causal or padding only where they are exactly that."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from sage2_capture.masks import BIAS, Part, causal_pattern, understand  # noqa: E402

CPU = torch.device("cpu")
LOW = torch.finfo(torch.float32).min


def additive(mask: torch.Tensor, low: float = LOW) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, low)


def only(meaning) -> Part:
    assert meaning.reason is None, meaning.reason
    assert len(meaning.parts) == 1
    return meaning.parts[0]


def whole(part: Part) -> bool:
    return part.batch is None and part.rows == slice(None) and part.keys == slice(None)


def test_no_mask() -> None:
    assert not only(understand(None, False, "top_left", 4, 9)).is_causal
    part = only(understand(None, True, "top_left", 4, 9))
    assert part.is_causal and part.causal_align == "top_left"
    assert only(understand(None, True, "top_left", 9, 9)).causal_align == "bottom_right"  # the same, so the default
    assert not only(understand(None, True, "bottom_right", 1, 9)).is_causal  # one row at the end sees everything
    assert only(understand(None, True, "top_left", 1, 9)).is_causal  # one row at the start sees one key


@pytest.mark.parametrize(
    "make", [lambda m: m, additive, lambda m: additive(m, -1e4), lambda m: additive(m, -torch.inf)]
)
@pytest.mark.parametrize(("q_len", "kv_len"), [(7, 7), (3, 8), (8, 3)])
@pytest.mark.parametrize("align", ["bottom_right", "top_left"])
def test_causal_masks(make, q_len: int, kv_len: int, align: str) -> None:
    part = only(understand(make(causal_pattern(q_len, kv_len, align, CPU)), False, "top_left", q_len, kv_len))
    assert part.is_causal and whole(part)
    assert part.causal_align == ("bottom_right" if q_len == kv_len else align)


@pytest.mark.parametrize("shape", [(5, 7), (1, 1, 5, 7), (2, 1, 1, 7), (2, 4, 5, 7), (1, 7)])
def test_masks_that_hide_nothing(shape: tuple[int, ...]) -> None:
    for mask in (torch.ones(shape, dtype=torch.bool), torch.zeros(shape)):
        part = only(understand(mask, False, "top_left", 5, 7))
        assert whole(part) and not part.is_causal


def spans(meaning) -> list[tuple]:
    assert meaning.reason is None, meaning.reason
    return [(p.batch, p.rows.start, p.rows.stop, p.keys.start, p.keys.stop, p.is_causal) for p in meaning.parts]


def test_padding_left_and_right_causal_or_not() -> None:
    real = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1], [1] * 7], dtype=torch.bool)
    keys = real[:, None, None, :]
    expected = [(0, 0, 5, 0, 5), (1, 2, 7, 2, 7), (2, 0, 7, 0, 7)]
    for causal in (False, True):
        mask = keys & causal_pattern(7, 7, "bottom_right", CPU) if causal else keys
        assert spans(understand(mask, False, "top_left", 7, 7)) == [(*e, causal) for e in expected]
        # Libraries let rows that see nothing see everything, to keep the softmax finite.
        repaired = mask.expand(-1, -1, 7, -1) | ~mask.any(dim=-1, keepdim=True)
        assert spans(understand(additive(repaired), False, "top_left", 7, 7)) == [(*e, causal) for e in expected]
        outer = mask & real[:, None, :, None]
        assert spans(understand(outer, False, "top_left", 7, 7)) == [(*e, causal) for e in expected]
    assert spans(understand(keys, True, "top_left", 7, 7)) == [(*e, True) for e in expected]


def test_padding_of_a_text_in_cross_attention() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)[:, None, None, :]
    assert spans(understand(mask, False, "top_left", 9, 4)) == [(0, 0, 9, 0, 3, False), (1, 0, 9, 0, 2, False)]


def test_a_mask_for_all_entries_stays_one_part() -> None:
    mask = torch.tensor([1, 1, 1, 0], dtype=torch.bool)
    assert spans(understand(mask[None], False, "top_left", 9, 4)) == [(None, 0, 9, 0, 3, False)]


@pytest.mark.parametrize("kind", ["packed", "window", "holes", "prefix-lm", "random"])
def test_other_masks_are_refused(kind: str) -> None:
    n = 8
    causal = causal_pattern(n, n, "bottom_right", CPU)
    i = torch.arange(n)
    mask = {
        "packed": causal & (i[:, None] // 3 == i[None, :] // 3),
        "window": causal & (i[:, None] - i[None, :] < 3),
        "holes": causal & (i[None, :] != 2),
        "prefix-lm": causal | (i[None, :] < 4),
        "random": torch.rand(n, n, generator=torch.Generator().manual_seed(1)) > 0.4,
    }[kind]
    assert understand(mask, False, "top_left", n, n).parts == ()
    assert "neither causal nor padding" in understand(additive(mask), False, "top_left", n, n).reason


def test_biases_and_odd_shapes_are_refused() -> None:
    bias = torch.linspace(-3, 0, 16).reshape(4, 4)
    assert understand(bias, False, "top_left", 4, 4).reason == BIAS
    per_head = torch.stack([causal_pattern(4, 4, "top_left", CPU), torch.ones(4, 4, dtype=torch.bool)])[None]
    assert "head" in understand(per_head, False, "top_left", 4, 4).reason
    assert "shape" in understand(torch.ones(3, 5, dtype=torch.bool), False, "top_left", 4, 5).reason
