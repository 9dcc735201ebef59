# SPDX-License-Identifier: Apache-2.0
"""Looking at ourselves from outside, as clients do: what is asked, and what is to be thought of the answers."""
