# SPDX-License-Identifier: Apache-2.0
"""Property tests without a stop-watch: a machine busy with something else is no reason to call a parser wrong."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
