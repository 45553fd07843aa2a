"""What ``[desk]`` may say in nightwarden.toml."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class WebhookSettings(BaseModel):
    """Another program that is told of every change, such as a case system."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="Under which its progress is kept."
    )
    url: str = Field(pattern=r"^https?://", description="Where changes are posted.")


class DeskSettings(BaseModel):
    """How the review desk is served, and by which rules analysts work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8050, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    names: tuple[str, ...] = Field(
        ("127.0.0.1", "localhost"), description="Host names by which browsers may ask for it."
    )
    tls_certificate: str | None = Field(None, description="PEM file, to serve TLS itself.")
    tls_key: str | None = Field(None, description="PEM file of the certificate's key.")
    claim_minutes: int = Field(15, ge=1, le=480, description="How long a claim holds.")
    idle_minutes: int = Field(30, ge=1, le=1440, description="Unused sessions end after.")
    session_hours: int = Field(12, ge=1, le=168, description="All sessions end after.")
    second_above: float | None = Field(
        None, ge=0, description="Amount above which a second analyst must confirm a verdict."
    )
    trusted_header: str | None = Field(
        None, description="Header in which a proxy names who is signed in."
    )
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses whose headers are believed."
    )
    webhooks: tuple[WebhookSettings, ...] = Field((), description="Who is told of changes.")
    webhook_secret: SecretStr | None = Field(None, exclude=True, description="Signs webhooks.")

    @model_validator(mode="after")
    def _require_what_belongs_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            message = "tls_certificate and tls_key belong together; set both or none"
            raise ValueError(message)
        if self.trusted_header and not self.trusted_proxies:
            message = (
                "trusted_header needs trusted_proxies, the addresses of the proxies that set it: "
                "from anybody else it would be believed, too"
            )
            raise ValueError(message)
        names = [webhook.name for webhook in self.webhooks]
        if len(set(names)) < len(names):
            message = f"each webhook needs a name of its own, got {names}"
            raise ValueError(message)
        return self
