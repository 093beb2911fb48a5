// Shows /openapi.json to people. FastAPI's own page would load scripts from another server.

const api = await (await fetch("openapi.json")).json();

function element(name, text, ...children) {
  const node = document.createElement(name);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

const named = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema);

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return schema.type ?? "any";
}

function table(title, fields) {
  const rows = fields.map(([name, schema, needed]) => {
    const standard = schema.default === undefined ? "" : `default: ${JSON.stringify(schema.default)}`;
    const told = [needed ? "needed" : "", schema.description ?? "", standard].filter(Boolean).join("; ");
    return element("tr", "", element("td", "", element("code", name)), element("td", typeOf(schema)), element("td", told));
  });
  return fields.length ? [element("h4", title), element("table", "", ...rows)] : [];
}

function fieldsOf(schema) {
  const known = named(schema);
  return Object.entries(known?.properties ?? {}).map(([name, one]) => [name, one, known.required?.includes(name)]);
}

for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, told] of Object.entries(methods)) {
    const body = Object.values(told.requestBody?.content ?? {})[0]?.schema;
    const done = Object.entries(told.responses).find(([code]) => code.startsWith("2"))[1];
    const answer = done.content?.["application/json"]?.schema;
    const refused = Object.entries(told.responses).filter(([code]) => code.startsWith("4"));
    const inPath = (told.parameters ?? []).map((one) => [one.name, { ...one.schema, description: one.description }, true]);
    document.getElementById("paths").append(
      element(
        "section", "",
        element("h2", "", element("code", `${method.toUpperCase()} ${path}`)),
        element("p", told.description),
        ...table("In the path", inPath),
        ...table("Request", fieldsOf(body)),
        ...table("Answer", fieldsOf(answer)),
        ...table("Each hit", fieldsOf(named(answer)?.properties?.hits?.items)),
        element("p", `Refused with ${refused.map(([code, one]) => `${code} (${one.description})`).join(", ")}.`),
      ),
    );
  }
}
