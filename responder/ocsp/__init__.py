# SPDX-License-Identifier: Apache-2.0
"""OCSP messages as values: bytes in, bytes out. Pure."""
