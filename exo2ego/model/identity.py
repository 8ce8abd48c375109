"""A fingerprint of weights that takes a second for a large model, so that every start can compare it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

import numpy
import torch
from torch import Tensor, nn

BLOCK_WORDS = 1 << 16
"""64-bit words that are added up to one number, each weighted by its place: 512 KiB."""


def weights_identity(tensors: Mapping[str, Tensor]) -> str:
    """Returns SHA-256 over names, types, shapes and the weighted sums of every 512 KiB block of each tensor's bits.

    Every bit counts, whatever file or folder it came from, and so does the order of rows: other weights under the same
    path have another identity. A sum is not a cryptographic hash: this finds a mix-up, not a forgery. 16 GB take
    seconds, SHA-256 of all of it 15 s.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_block_sums(tensor))
    return digest.hexdigest()


def module_identity(module: nn.Module) -> str:
    """Returns the identity of a module's weights."""
    return weights_identity(module.state_dict())


def _block_sums(tensor: Tensor) -> bytes:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    if data.storage_offset() % 8:  # a tensor in the middle of a mapped file
        data = data.clone()
    whole = len(data) // (8 * BLOCK_WORDS) * 8 * BLOCK_WORDS
    rest = torch.zeros(-(-(len(data) - whole) // 8) * 8, dtype=torch.uint8)
    rest[: len(data) - whole] = data[whole:]
    factors, words = _factors(), rest.view(torch.int64)
    sums = data[:whole].view(torch.int64).view(-1, BLOCK_WORDS) @ factors  # wraps around, the same on every machine
    return sums.numpy().tobytes() + (words @ factors[: len(words)]).numpy().tobytes()


@functools.cache
def _factors() -> Tensor:
    """Returns [BLOCK_WORDS] odd numbers, so that no bit is lost modulo 2^64, without a pattern (SplitMix64)."""
    value = numpy.arange(1, BLOCK_WORDS + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((value ^ (value >> numpy.uint64(31))) | numpy.uint64(1)).view(numpy.int64))
