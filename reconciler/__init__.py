# SPDX-License-Identifier: Apache-2.0
"""Makes sure that every certificate of ours has a row, and proves it."""
