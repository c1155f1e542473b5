"""Signatures: calls that can be stored, passed on and linked to other calls."""

from dispatcher.canvas.signature import Signature, maybe_signature, signature

__all__ = ["Signature", "maybe_signature", "signature"]
