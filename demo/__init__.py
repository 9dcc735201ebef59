# SPDX-License-Identifier: Apache-2.0
"""A certification authority, a CT log and the incident in miniature."""
