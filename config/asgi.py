"""The live server: the part of the web that streams. uvicorn serves it, next to gunicorn.

Browsers reach it under /live/, through the proxy or, without one, on its own port.
"""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# This sets Django up, so it comes before the imports that need models.
http = get_asgi_application()

from config.web.prefix import under_prefix_asgi  # noqa: E402
from finetune.chat.consumers import ChatConsumer  # noqa: E402

application = under_prefix_asgi(
    ProtocolTypeRouter(
        {
            "http": http,
            "websocket": AllowedHostsOriginValidator(
                AuthMiddlewareStack(
                    URLRouter([path("live/chat/<int:pk>/", ChatConsumer.as_asgi())])
                )
            ),
        }
    )
)
