# SPDX-License-Identifier: Apache-2.0
"""The status table and everything that may be said about it. Shared with the reconciler."""
