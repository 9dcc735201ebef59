# SPDX-License-Identifier: Apache-2.0
"""Signing ahead: keeps the stored answers younger than their refresh time, with many processes and on many hosts.

One plans, by putting what is due into a queue in the database; all take portions out of it, sign, and store. Sends
nothing to clients: responder/stored.py does.
"""
