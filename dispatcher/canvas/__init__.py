"""Signatures and what is made of them: calls that can be stored, passed on, linked, chained and grouped."""

from dispatcher.canvas.compound import chain, chord, group
from dispatcher.canvas.mapped import chunks, xmap, xstarmap
from dispatcher.canvas.signature import Signature, maybe_signature, signature
from dispatcher.canvas.stamping import StampingVisitor

subtask, maybe_subtask = signature, maybe_signature

__all__ = [
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
