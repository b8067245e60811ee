"""Compile kernels for cards that need not be there, and print what each takes, as JSON.

A program of its own: under the interpreter, which the tests run in, nothing is compiled.
"""

import json
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from cca_kernels import (
    block_weights,
    decoding,
    listed_attention,
    prefill_forward,
    prefill_hopper,
    tile_lists,
)
from cca_kernels.hopper_primitives import gluon_descriptor
from cca_kernels.tiles import tile_for

_ARCHITECTURES = {"ampere": 80, "ada": 89, "hopper": 90}


def shared_memory(source: Any, arch: int, **options: int) -> int:
    """Compile and give the shared memory of a program, in bytes."""
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return int(compiled.metadata.shared)


def forward(name: str, head_dim: int) -> int:
    """Compile the portable forward kernel in bfloat16 with the table's tile."""
    kernel = prefill_forward.attend_fwd_kernel
    tile = tile_for(prefill_forward._TILES, name, head_dim, 2)
    constants: dict[str, Any] = {
        "REP": 1, "G": 16, "W": 1024, "D": head_dim, "BLOCK_Q": tile.block_q,
        "BLOCK_K": tile.block_k, "BLOCK_D": head_dim, "STAGES": tile.num_stages,
        "PRECISION": "tf32",
    }  # fmt: skip
    signature: dict[str, Any] = {}
    aligned = {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_strides"):
            signature[argument] = ("i64",) * 3
            aligned.update({(i, axis): [["tt.divisibility", 16]] for axis in range(3)})
        elif argument in ("q", "k", "v", "core_k", "core_v", "o"):
            signature[argument] = "*bf16"
            aligned[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[argument] = {"lse": "*fp32", "scale": "fp32"}.get(argument, "i32")
    values = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    return shared_memory(source, _ARCHITECTURES[name], num_warps=tile.num_warps)


# What of the kernel for listed tiles each attention takes; tiles of 64 keys.
_LISTED: dict[str, dict[str, Any]] = {
    "window": {"COLUMNS": True, "TURNED": True},
    "lists": {"LISTED": True},
    "table": {"LISTED": True, "TABLE": True, "COLUMNS": True},
    "choice": {"LISTED": True, "CHOICE_BLOCK": 4096},
    "packed": {"LISTED": True, "HEADS": 3, "REP": 3, "QUERIES": 1, "BLOCK_Q": 16},
    "pooled": {"KEY_STEP": 64},
}


def listed(name: str, variant: str, head_dim: int) -> int:
    """Compile one form of the kernel for listed tiles in bfloat16 with the table's tile."""
    kernel = listed_attention.listed_fwd_kernel
    tile = tile_for(tile_lists._TILES, name, head_dim, 2)
    constants: dict[str, Any] = {
        "REP": 3, "HEADS": 1, "QUERIES": tile.block_q, "KEY_STEP": 1, "LISTED": False,
        "TABLE": False, "CHOICE_BLOCK": 0, "COLUMNS": False, "TURNED": False, "D": head_dim,
        "BLOCK_Q": tile.block_q, "BLOCK_K": tile.block_k, "BLOCK_D": head_dim,
        "STAGES": tile.num_stages, "PRECISION": "tf32", **_LISTED[variant],
    }  # fmt: skip
    return plain(kernel, constants, name, num_warps=2 if variant == "packed" else tile.num_warps)


def weights(name: str, head_dim: int) -> int:
    """Compile the kernel for weights of blocks."""
    constants: dict[str, Any] = {
        "KV": 3, "REP": 3, "D": head_dim, "BLOCK_Q": block_weights._QUERIES,
        "BLOCK_N": block_weights._BLOCKS, "BLOCK_D": head_dim, "PRECISION": "tf32x3",
    }  # fmt: skip
    return plain(block_weights.block_weights_kernel, constants, name, num_warps=4)


def decode(name: str, rows: int, head_dim: int) -> int:
    """Compile the decoding kernel in float32, for the rows that share a KV head, as planned."""
    tile = decoding.TILES.get((False, name)) or decoding.TILES[False, "other"]
    plan = decoding.decode_plan(1, rows, head_dim, 4, torch.device("cpu"), tile)
    options = {key: plan[key] for key in ("num_warps", "maxnreg")}
    constants: dict[str, Any] = {
        "KV": 1, "REP": rows // 16, "G": 16, "W": 1024, "D": head_dim, "ONE_ROW": False,
        **{key: value for key, value in plan.items() if key not in options},
    }  # fmt: skip
    kernel = decoding.decode_fwd_kernel
    return plain(kernel, constants, name, "*fp32", **options)


_POINTERS = {
    **dict.fromkeys(("q", "k", "v", "o", "far_k", "far_v", "core_k", "core_v"), "*bf16"),
    **dict.fromkeys(("lse", "cos", "sin", "means", "weights", "part_o", "part_stats"), "*fp32"),
    **dict.fromkeys(("tiles", "counts", "columns", "counters"), "*i32"),
    **dict.fromkeys(("table", "choice"), "*u8"),
}


def plain(
    kernel: Any, constants: dict[str, Any], name: str, element: str = "*bf16", **options: int
) -> int:
    """Compile a kernel whose arguments are pointers, strides, integers and a scale."""
    signature: dict[str, Any] = {}
    aligned = {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_strides"):
            signature[argument] = ("i64",) * 3
            aligned.update({(i, axis): [["tt.divisibility", 16]] for axis in range(3)})
        elif argument in _POINTERS:
            pointer = _POINTERS[argument]
            signature[argument] = element if pointer == "*bf16" else pointer
            aligned[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[argument] = "fp32" if argument == "scale" else "i32"
    values = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    return shared_memory(source, _ARCHITECTURES[name], **options)


def hopper(head_dim: int) -> int:
    """Compile the Hopper kernel in bfloat16."""
    from triton.experimental.gluon._runtime import GluonASTSource

    kernel = prefill_hopper.attend_fwd_hopper_kernel
    tile = prefill_hopper.TILES[head_dim]
    constants: dict[str, Any] = {
        "G": 16, "W": 1024, "BLOCK_K": tile.block_k, "BLOCK_D": head_dim, "STAGES": tile.stages,
        "CONSUMERS": tile.consumers, "PINGPONG": tile.turns, "OVERLAP": tile.overlap,
        "FOLD": tile.fold, "EARLY": tile.early, "SHARE": tile.share,
    }  # fmt: skip
    signature: dict[str, Any] = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in ("q", "k", "v", "core_k", "core_v", "o"):
            rows = 64 if argument in ("q", "o") else tile.block_k
            tensor = torch.zeros(2, 2, rows, head_dim, dtype=torch.bfloat16)
            signature[argument] = mangle_type(gluon_descriptor(tensor, rows, head_dim))
        else:
            signature[argument] = {"lse": "*fp32", "scale": "fp32"}.get(argument, "i32")
    values = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    source = GluonASTSource(fn=kernel, signature=signature, constexprs=values, attrs={})
    return shared_memory(source, 90, num_warps=4, maxnreg=168)


def main() -> None:
    """Print kernel, architecture, head dim and bytes of shared memory."""
    rows = [["portable", name, 128, forward(name, 128)] for name in ("ampere", "ada")]
    rows += [["hopper", "hopper", head_dim, hopper(head_dim)] for head_dim in (64, 128, 256)]
    rows += [
        [f"listed ({variant})", name, head_dim, listed(name, variant, head_dim)]
        for name, head_dim, variants in (
            ("hopper", 64, list(_LISTED)), ("hopper", 128, ["window", "table"]),
            ("ampere", 64, ["table"]), ("ampere", 128, ["window"]), ("ada", 128, ["table"]),
        )
        for variant in variants
    ]  # fmt: skip
    rows += [["weights", name, 128, weights(name, 128)] for name in ("hopper", "ampere")]
    rows += [
        ["decode", name, head_dim, decode(name, 640, head_dim)]
        for name in ("hopper", "ada")  # Ampere takes Ada's tile
        for head_dim in (16, 64, 128)
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
