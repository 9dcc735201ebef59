# SPDX-License-Identifier: Apache-2.0
"""The measurements, with tiny counts."""
