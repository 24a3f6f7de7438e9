"""Let who is signed in call fal: a Flask app with Flask-Login.

    FAL_KEY=... SECRET_KEY=... python examples/flask_login_app.py

Leaves out: passwords (whoever names a user is signed in as that one), and how often each may call.
"""

import os

from flask import Flask, redirect, request
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from werkzeug.wrappers import Response

from wsgi_fal_proxy import Allow, FalProxy, FalRequest, Refuse

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY") or os.urandom(32)
# A cookie that pages of other sites cannot use.
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
login = LoginManager(app)


class User(UserMixin):
    """Someone, by name."""

    def __init__(self, name: str) -> None:
        self.id = name


@login.user_loader
def user(name: str) -> User:
    """Give the session's user."""
    return User(name)


def signed_in(_: FalRequest) -> Allow | Refuse:
    """Decide who may call fal; Flask's own request is at hand, since a view calls the proxy."""
    if current_user.is_authenticated:
        return Allow(identity=current_user.get_id())
    return Refuse(401, "Sign in to make pictures.")


fal = FalProxy(authorize=signed_in)


@app.route("/api/fal/proxy", methods=["GET", "POST", "PUT", "OPTIONS"])
def fal_proxy() -> Response:
    """Relay to fal."""
    return Response.from_app(fal, request.environ, buffered=False)


@app.post("/login")
def sign_in() -> Response:
    """Sign in."""
    login_user(User(request.form["name"]))
    return redirect("/")


@app.get("/")
@login_required
def hello() -> str:
    """Answer who is signed in."""
    return f"Hello {current_user.get_id()}\n"


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8000")))
