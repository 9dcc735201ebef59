# SPDX-License-Identifier: Apache-2.0
"""Tests of what is handed to operators and machines: the wheel, the units, the locks, the files of the repository."""
