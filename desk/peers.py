"""Who asks, and by which way: addresses, trusted proxies, TLS."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

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
        try:
            parsed = ip_address(address)
        except ValueError:  # a Unix socket's peer has no address
            return False
        plain = (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
        return any(plain in network for network in self.networks)

    def is_from_proxy(self, connection: HTTPConnection) -> bool:
        """Tell whether a trusted proxy speaks to us."""
        return self.is_trusted(peer_address(connection))

    def is_secure(self, connection: HTTPConnection) -> bool:
        """Tell whether the browser spoke TLS, to us or to a trusted proxy."""
        if connection.scope["scheme"] == "https":
            return True
        told = connection.headers.get("x-forwarded-proto", "").strip().lower()
        return told == "https" and self.is_from_proxy(connection)

    def client_address(self, connection: HTTPConnection) -> str:
        """Give whose request it is: the last address on its way that is no trusted proxy's."""
        nearest = peer_address(connection)
        told = ",".join(connection.headers.getlist("x-forwarded-for"))
        for address in (nearest, *reversed([part.strip() for part in told.split(",")])):
            if not is_address(address):
                break
            nearest = address
            if not self.is_trusted(address):
                break
        return nearest


def peer_address(connection: HTTPConnection) -> str:
    """Give the address of who speaks to us directly."""
    return connection.client.host if connection.client else UNKNOWN


def is_address(text: str) -> bool:
    """Tell whether a text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def to_household(address: str) -> str:
    """Give what one person can easily have many of as one: the /64 of an IPv6 address.

    Example:
        >>> to_household("2001:db8::1:2:3:4"), to_household("192.0.2.7")
        ('2001:db8::/64', '192.0.2.7')
    """
    if not is_address(address) or not isinstance(ip_address(address), IPv6Address):
        return address
    return str(ip_network(f"{address.partition('%')[0]}/64", strict=False))
