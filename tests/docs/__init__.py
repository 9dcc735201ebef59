# SPDX-License-Identifier: Apache-2.0
"""Tests that hold the documents and the code together."""
