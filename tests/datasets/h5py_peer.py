"""The other side of h5py_test.cpp: h5py and NumPy write what the reader must read, and read what the writer wrote.

    h5py_peer.py write DIR     captures in every stored form, with the values that NumPy makes of them
    h5py_peer.py check FILE    a capture of our writer: types and values as NumPy sees them
"""
import sys
from pathlib import Path

import h5py
import numpy as np

CODES = np.arange(65536, dtype=np.uint16).reshape(1, 4, 256, 64)


def bfloat16_values(codes):
    return (codes.astype(np.uint32) << 16).view(np.float32)


def round_to_bfloat16(values):
    """Codes by arithmetic in float64: scale to an integer of 8 bits, round half to even, scale back."""
    exact = values.astype(np.float64)
    _, exponent = np.frexp(exact)
    quantum = np.maximum(exponent - 8, -133)  # subnormals have the spacing 2^-133
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(exact, -quantum)), quantum).astype(np.float32)
    return (rounded.view(np.uint32) >> 16).astype(np.uint16)


def custom_bfloat16(bias):
    tid = h5py.h5t.IEEE_F32LE.copy()
    tid.set_fields(15, 7, 8, 0, 7)
    tid.set_size(2)
    tid.set_ebias(bias)
    return tid


def write_custom(group, name, codes, tid):
    space = h5py.h5s.create_simple(codes.shape)
    dataset = h5py.h5d.create(group.id, name.encode(), tid, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, codes, mtype=tid)


def write(folder):
    half = CODES.view(np.float16)
    brain = bfloat16_values(CODES)
    forms = [
        ("float16", half.astype(np.float32), lambda g: g.create_dataset("q", data=half)),
        ("float16", half.astype(np.float32), lambda g: g.create_dataset("q", data=half.astype(">f2"))),
        ("bfloat16", brain, lambda g: g.create_dataset("q", data=CODES)),
        ("bfloat16", brain, lambda g: g.create_dataset("q", data=CODES.astype(">u2"))),
        ("bfloat16", brain, lambda g: g.create_dataset(
            "q", data=CODES.view("V2").astype(h5py.opaque_dtype(np.dtype("V2"))))),
        ("bfloat16", brain, lambda g: write_custom(g, "q", CODES, custom_bfloat16(127))),
        ("bfloat16", brain, lambda g: write_custom(g, "q", CODES, custom_bfloat16(15))),
        ("float32", brain, lambda g: g.create_dataset("q", data=brain, chunks=(1, 2, 100, 64), compression="gzip",
                                                      shuffle=True)),
        ("float32", brain, lambda g: g.create_dataset("q", data=brain.astype(">f4"))),
    ]
    with h5py.File(folder / "forms.h5", "w") as file:
        file.attrs.update(schema="sage2-capture", schema_version=1, model="codes", source="NumPy")
        for layer, (dtype, values, create) in enumerate(forms):
            group = file.create_group(f"layers/{layer:03}/0000/000")
            # Booleans, NumPy scalars and fixed strings are what people's scripts write.
            group.attrs.update(layer=layer, layer_name=np.bytes_("codes"), timestep=np.int32(0), timestep_value=0.5,
                               sample=np.uint8(0), is_causal=bool(layer % 2), sm_scale=np.float32(0.125))
            create(group)
            group["q"].attrs["dtype"] = dtype
            for name in "kv":
                group.create_dataset(name, data=np.zeros_like(half)).attrs["dtype"] = "float16"
            values.astype("<f4").tofile(folder / f"expected_{layer}.f32")

    rng = np.random.default_rng(1)
    bits = np.concatenate([rng.integers(0, 2**32, 1 << 18, dtype=np.uint32),
                           (np.arange(65536, dtype=np.uint32) << 16) | 0x8000])
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    values.astype("<f4").tofile(folder / "values.f32")
    with np.errstate(over="ignore"):
        values.astype(np.float16).view(np.uint16).astype("<u2").tofile(folder / "float16.u16")
    round_to_bfloat16(values).astype("<u2").tofile(folder / "bfloat16.u16")


def check(path):
    with h5py.File(path) as file:
        assert file.attrs["schema"] == "sage2-capture" and file.attrs["schema_version"] == 1
        for layer, (dtype, kind) in enumerate([("float16", "<f2"), ("bfloat16", "<u2"), ("float32", "<f4")]):
            group = file[f"layers/{layer:03}/0000/000"]
            assert group.attrs["layer"] == layer and group.attrs["layer_name"] == "blocks.0.attn"
            assert group.attrs["sm_scale"] == 0.25 and group.attrs["is_causal"] == 0
            for tensor, name in enumerate("qkv"):
                dataset = group[name]
                assert dataset.dtype == np.dtype(kind), (name, dataset.dtype)
                assert dataset.attrs["dtype"] == dtype
                data = dataset[...]
                data = bfloat16_values(data) if dtype == "bfloat16" else data.astype(np.float32)
                b, h, i, j = np.indices(data.shape)
                expected = (tensor * 31 + b * 57 + h * 83 + i * 7 + j * 3) % 255 - 127
                assert np.array_equal(data, expected), (layer, name)


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))
