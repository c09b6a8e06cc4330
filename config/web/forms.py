from django.forms.renderers import TemplatesSetting


class Renderer(TemplatesSetting):
    """Draws `{{ form }}` and `{{ field.as_field_group }}` with the templates in templates/forms/."""

    form_template_name = "forms/form.html"
    field_template_name = "forms/field.html"
