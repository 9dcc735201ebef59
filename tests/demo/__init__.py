# SPDX-License-Identifier: Apache-2.0
"""The demonstration's CA and CT log, judged by others before anything is judged by them."""
