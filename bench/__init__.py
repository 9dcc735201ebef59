# SPDX-License-Identifier: Apache-2.0
"""Measurements, side by side with others in one run. `make bench` writes docs/PERFORMANCE.md."""
