# SPDX-License-Identifier: Apache-2.0
"""What every process of ours needs to run: settings, a database pool, logs. Shared with the reconciler."""
