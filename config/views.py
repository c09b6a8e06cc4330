from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from accounts.access import user_of


@login_required
def home(request: HttpRequest) -> HttpResponse:
    user = user_of(request)
    return render(request, "home.html", {"user": user})


@login_required
def projects(request: HttpRequest) -> HttpResponse:
    user = user_of(request)
    return render(request, "home.html", {"user": user})
