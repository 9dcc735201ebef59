# SPDX-License-Identifier: Apache-2.0
"""Reading the CA's own records of what it issued."""
