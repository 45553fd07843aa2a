"""Who asks, and by which way: addresses, trusted proxies, TLS."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from starlette.requests import HTTPConnection

from warehouse.errors import SettingsError

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Proxies:
    """The proxies whose headers are believed.

    The server must not replace the peer's address by what a header says: ``proxy_headers=False``.
    """

    networks: tuple[IPv4Network | IPv6Network, ...]

    @classmethod
    def read(cls, addresses: Sequence[str]) -> "Proxies":
        """Read addresses and networks.

        Raises:
            SettingsError: if one is neither.

        Example:
            >>> Proxies.read(["10.0.0.0/8"]).is_trusted("10.1.2.3")
            True
        """
        try:
            return cls(tuple(ip_network(address, strict=False) for address in addresses))
        except ValueError as error:
            raise SettingsError(
                f"desk.trusted_proxies must be addresses or networks such as 10.0.0.0/8: {error}"
            ) from error

    def is_trusted(self, address: str) -> bool:
        """Tell whether an address is a trusted proxy's."""
        plain = read_address(address)
        return plain is not None and any(plain in network for network in self.networks)

    def is_from_proxy(self, connection: HTTPConnection) -> bool:
        """Tell whether a trusted proxy speaks to us."""
        return self.is_trusted(peer_address(connection))

    def is_secure(self, connection: HTTPConnection) -> bool:
        """Tell whether the browser spoke TLS, to us or to a trusted proxy."""
        if connection.scope["scheme"] == "https":
            return True
        told = connection.headers.get("x-forwarded-proto", "").strip().lower()
        return told == "https" and self.is_from_proxy(connection)

    def is_private(self, connection: HTTPConnection) -> bool:
        """Tell whether no network reads along: by TLS, or as this machine or a trusted proxy asks.

        What the browser spoke to the proxy is up to the proxy.
        """
        peer = read_address(peer_address(connection))
        is_local = peer is not None and peer.is_loopback
        return is_local or self.is_secure(connection) or self.is_from_proxy(connection)

    def client_address(self, connection: HTTPConnection) -> str:
        """Give whose request it is: the last address on its way that is no trusted proxy's."""
        nearest = peer_address(connection)
        told = ",".join(connection.headers.getlist("x-forwarded-for"))
        for address in (nearest, *reversed([part.strip() for part in told.split(",")])):
            if read_address(address) is None:
                break
            nearest = address
            if not self.is_trusted(address):
                break
        return nearest


def peer_address(connection: HTTPConnection) -> str:
    """Give the address of who speaks to us directly."""
    return connection.client.host if connection.client else UNKNOWN


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an IP address, an IPv4 one within IPv6 as itself; None if it is none.

    Example:
        >>> read_address("::ffff:127.0.0.1"), read_address("unknown")
        (IPv4Address('127.0.0.1'), None)
    """
    try:
        parsed = ip_address(text)
    except ValueError:  # a Unix socket's peer has no address
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def to_household(address: str) -> str:
    """Give what one person can easily have many of as one: the /64 of an IPv6 address.

    Example:
        >>> to_household("2001:db8::1:2:3:4"), to_household("192.0.2.7")
        ('2001:db8::/64', '192.0.2.7')
    """
    parsed = read_address(address)
    if not isinstance(parsed, IPv6Address):
        return str(parsed or address)
    return str(ip_network(f"{address.partition('%')[0]}/64", strict=False))
