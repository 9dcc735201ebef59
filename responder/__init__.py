# SPDX-License-Identifier: Apache-2.0
"""The OCSP responder, and the status table that the reconciler shares with it."""
