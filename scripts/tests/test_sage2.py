"""The module sage2: what can be tested without a GPU, and the checks of check_sage2.py where there is a Hopper GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import check_sage2  # noqa: E402
import sage2  # noqa: E402
from sage2 import _library  # noqa: E402
from sage2_capture import backends  # noqa: E402
from sage2_capture.fake.variant import parse_variant  # noqa: E402


@pytest.fixture
def library() -> None:
    try:
        sage2.library_version()
    except sage2.Sage2Error as e:
        pytest.skip(str(e))


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAGE2_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(sage2.Sage2Error, match=r"none\.so, which is no file"):
        sage2.library_path()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("sage2-8b", (8, 2, 0, 1, 0, 1)),
        ("sage2-4b", (4, 2, 1, 1, 0, 1)),
        ("sage2-4b@hopper:qk_gran=per_warp,smooth_v=on,smooth_k=off", (4, 1, 1, 0, 1, 1)),
        ("sage2-8b:qk_gran=per_block,pv_accum=fp32", (8, 0, 0, 1, 0, 0)),
    ],
)
def test_variants(text: str, want: tuple[int, ...]) -> None:
    found = _library.parse_variant(text)
    assert tuple(getattr(found, name) for name, _ in found._fields_[:6]) == want


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("text", "why"),
    [("sage2-5b", "no preset"), ("sage1", "p, v"), ("sage2-4b@ada", "arch"), ("sage2pp-4b", "pv_accum")],
)
def test_variants_without_a_kernel(text: str, why: str) -> None:
    with pytest.raises(sage2.Sage2Error, match=why) as caught:
        _library.parse_variant(text)
    assert caught.value.status == _library.UNSUPPORTED


@pytest.mark.usefixtures("library")
def test_workspace_grows_with_the_call() -> None:
    def size(variant: str, length: int) -> int:
        sizes = {"batch": 1, "q_heads": 2, "kv_heads": 2, "q_len": length, "kv_len": length, "head_dim": 128}
        return _library.workspace_size(_library.parse_variant(variant), _library.Args(**sizes, sm_scale=1.0))

    # The codes of K and V are two bytes an element; those of Q are stored for short calls with smooth Q only.
    assert 2 * 2 * 1024 * 128 < size("sage2-8b", 1024) < size("sage2-4b", 1024) < size("sage2-4b", 2048)
    with pytest.raises(sage2.Sage2Error, match="q_len is 0"):
        size("sage2-8b", 0)


@pytest.mark.usefixtures("library")
def test_maps_run_on_it() -> None:
    backend = backends.Libsage2()
    for text in ("sage2-8b@hopper", "sage2-4b@hopper", "sage2-4b@hopper:qk_gran=per_warp,smooth_v=on,smooth_q=off"):
        mine = _library.parse_variant(text)
        through = _library.parse_variant(backend.spelling(parse_variant(text)))
        assert bytes(mine) == bytes(through), text
    for text in ("sage2-4b", "sage2-8b@hopper:smooth_q=on", "fp16", "sage2pp-4b@hopper", "sage2-4b@hopper:qk=int5"):
        assert backend.spelling(parse_variant(text)) is None, text


def test_tensors_on_the_cpu_are_refused() -> None:
    x = torch.zeros(1, 1, 8, 64, dtype=torch.float16)
    with pytest.raises(ValueError, match="expected a CUDA device"):
        sage2.attention(x, x, x)
    with pytest.raises(ValueError, match="attn_mask"):
        sage2.scaled_dot_product_attention(x, x, x, torch.ones(8, 8))


@pytest.mark.usefixtures("library")
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
)
@pytest.mark.parametrize("check", check_sage2.CHECKS, ids=lambda check: check.__name__)
def test_on_the_gpu(check) -> None:
    check()
    torch.cuda.synchronize()
