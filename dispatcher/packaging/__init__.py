"""What a function in Lambda is made of: modules, wheels, bytecode, and the service models of botocore in use.

Needs the standard library and pip, so that any Python may build a package: ``python -m dispatcher.packaging``.
"""

from dispatcher.packaging.package import Contents, Package

__all__ = ["Contents", "Package"]
