# SPDX-License-Identifier: Apache-2.0
"""Tests of the adapters for a CA's own records of what it issued."""
