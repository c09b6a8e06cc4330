"""Browsers without a browser: Django's test client, signed in."""

from django.test import Client

from accounts.models import User


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client
