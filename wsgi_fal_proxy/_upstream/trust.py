"""The certificates that calls to fal trust, and whether there are any.

OpenSSL takes a missing or unusable store for an empty one and says nothing: then every call fails.
"""

from __future__ import annotations

import os.path
import re
import ssl
from functools import partial
from typing import Final

from wsgi_fal_proxy._process.variables import read_raw_variable

_FILE: Final = "SSL_CERT_FILE"
_DIRECTORY: Final = "SSL_CERT_DIR"
# As `openssl rehash` names certificates; OpenSSL looks for no others.
_HASHED: Final = r"[0-9a-f]{8}\.[0-9]+"


def trusting_context() -> ssl.SSLContext:
    """Make the context of connections to fal and to an egress proxy.

    It trusts what the system trusts, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    """
    context = ssl.create_default_context()
    # RFC 9525 section 2: a certificate's common name does not identify a host.
    context.hostname_checks_common_name = False
    if read_raw_variable(_FILE) or read_raw_variable(_DIRECTORY):
        # An authority that the owner names may be a company's. Those often lack what RFC 5280
        # demands and nobody checked before Python 3.13, such as key identifiers. Signatures,
        # names, dates, and that only authorities issue certificates, are still checked.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def trust_problem(context: ssl.SSLContext) -> str:
    """Say in a sentence why no certificate, or not the owner's, is trusted.

    Args:
        context: As `trusting_context` made it now.

    Returns:
        The sentence. Empty if there is no problem.
    """
    file, directories = read_raw_variable(_FILE), read_raw_variable(_DIRECTORY)
    # This counts certificates from files only; OpenSSL reads directories on demand.
    has_read_any = context.cert_store_stats()["x509"] > 0
    if file and not has_read_any:
        return (
            f"{_FILE} names {_named_by(file)}: {file!r}. It must name a file of certificates in PEM"
            " form."
        )
    if directories and not _has_certificates(directories):
        return (
            f"{_DIRECTORY} names no directory with certificates: {directories!r}. Their files must"
            " be named by hashes, as `openssl rehash` does it."
        )
    if has_read_any or directories:
        return ""
    # A variable that is empty replaces the system's store by nothing.
    system = ssl.get_default_verify_paths().openssl_capath
    if directories is None and _has_certificates(system):
        return ""
    return (
        "The system has no trusted certificates. Install them (Debian: ca-certificates), or name a"
        f" file of them by {_FILE}."
    )


def _named_by(path: str) -> str:
    """Say what a path names, from which no certificate could be read."""
    if os.path.isdir(path):
        return "a directory"
    try:
        with open(path, "rb"):
            return "a file without certificates in PEM form"
    except FileNotFoundError:
        return "a file that does not exist"
    except OSError:
        return "a file that cannot be read"


def _has_certificates(directories: str) -> bool:
    is_hashed = partial(re.fullmatch, _HASHED)
    for directory in directories.split(os.pathsep):
        try:
            if any(map(is_hashed, os.listdir(directory))):
                return True
        except OSError:
            continue
    return False
