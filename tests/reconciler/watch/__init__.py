# SPDX-License-Identifier: Apache-2.0
"""The view from outside."""
