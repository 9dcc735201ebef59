# SPDX-License-Identifier: Apache-2.0
"""Who may sign for which issuer, and until when."""
