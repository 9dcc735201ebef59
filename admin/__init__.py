# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin: what people do by hand. Sees both packages; nothing imports it."""
