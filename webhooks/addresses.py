"""Addresses to which users may have requests sent."""

import ipaddress
from urllib.parse import urlsplit

NAT64 = ipaddress.ip_network("64:ff9b::/96")


def problem_with(url: str) -> str:
    """Return why an address cannot be the one of a webhook, or an empty string if it can."""
    sentence = (
        "must be an http or https address without a user name, such as "
        "https://hooks.example.org/tiebreak."
    )
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return sentence
    if not valid or "@" in parts.netloc or parts.fragment or not url.isascii():
        return sentence
    return "" if url.isprintable() and " " not in url else sentence


def is_public(text: str) -> bool:
    """Return whether an address belongs to the internet, also if it contains an IPv4 address."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if address.teredo or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast
