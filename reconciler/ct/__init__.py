# SPDX-License-Identifier: Apache-2.0
"""Reading Certificate Transparency logs: heads, trees and entries of both protocols."""
