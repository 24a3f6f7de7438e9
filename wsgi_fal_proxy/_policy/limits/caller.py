"""The caller: the name that a call is counted under, an identity or else an address."""

from __future__ import annotations

from hashlib import sha256
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final

# RFC 4291 section 2.5.4: a client with one address has all addresses with the same first 64 bits.
_IPV6_PREFIX: Final = 64


def caller_name(identity: str | None, address: str) -> str:
    """Return the name under which a caller is counted: a hash, so that it identifies nobody.

    A client cannot become another caller by the part of its address that it chooses itself. An
    identity never equals an address.

    Args:
        identity: The identity that `authorize` returned. None: the address counts.
        address: The remote address (`REMOTE_ADDR`). All values that are no IP address count as one
            caller, such as the empty address of a Unix socket.
    """
    known = f"identity {identity}" if identity is not None else f"address {_network(address)}"
    # An identity can be any str, also one with lone surrogates.
    return sha256(known.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _network(address: str) -> str:
    try:
        ip = ip_address(address)
    except ValueError:
        # All of these are one caller. Otherwise a made-up address would be a caller of its own.
        return "none"
    if isinstance(ip, IPv4Address):
        return str(ip)
    # RFC 4291 section 2.5.5.2: an IPv4 address on a socket that serves both versions.
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip_network((int(ip), _IPV6_PREFIX), strict=False))
