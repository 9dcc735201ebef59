# SPDX-License-Identifier: Apache-2.0
"""The responder as the internet sees it: behind real nginx with the documented configuration."""
