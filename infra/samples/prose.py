"""The words of the sample files: about water, rivers and how their flow is measured."""

AGREEMENT_TITLE = "Gauging Agreement for the Lower Arlen"

AGREEMENT = [
    (
        "1. What this agreement is about",
        [
            "The Lower Arlen runs forty-one kilometres from the weir at Stonebridge to the tidal limit at Marrow "
            "Point. Three parties draw on it: the town of Stonebridge for drinking water, the Marrow growers for "
            "their orchards, and the fishery trust, which takes nothing out and wants something left in. For thirty "
            "years each of them kept its own figures. In dry summers the figures disagreed, and so did the people.",
            "This agreement replaces three sets of figures with one. It says where the river is measured, how often, "
            "by whom and with what care, and what each party may do when the water falls below a named level. It says "
            "nothing about who is right in older quarrels. A measurement that all sides have watched being made is "
            "worth more than an argument that one side has won.",
            "The word flow means the volume of water that passes a section of the river in a second, given in cubic "
            "metres. The word stage means the height of the water surface above the zero of the gauge. Flow is what "
            "the parties care about; stage is what can be read every fifteen minutes without getting wet.",
        ],
    ),
    (
        "2. Where and how the river is measured",
        [
            "The reference section lies ninety metres below the old railway bridge, where the bed is gravel, the banks "
            "are straight for six widths, and no tributary joins. A pressure sensor in a stilling well records the "
            "stage every fifteen minutes. A staff gauge beside it is read by eye at every visit, because a sensor that "
            "drifts does so quietly and a painted board does not drift at all.",
            "Flow is gauged by the velocity-area method. The section is divided into at least twenty verticals, none of "
            "which may carry more than a tenth of the total. In each vertical the depth is sounded and the velocity is "
            "taken at two tenths and at eight tenths of the depth; where the water is shallower than half a metre a "
            "single reading at six tenths is enough. The products of width, depth and mean velocity are added up.",
            "At least ten gaugings are made each year, spread over low, middle and high water. A rating curve is fitted "
            "to them and reviewed every January, and after every flood that moves the bed. Where a gauging lies more "
            "than eight per cent away from the curve, a second one is made within a week before anybody changes the "
            "curve or doubts the meter.",
        ],
    ),
    (
        "3. What may be taken, and when",
        [
            "As long as the flow at the reference section is above 2.40 cubic metres a second, the town may take up to "
            "0.35 and the growers up to 0.60. Between 2.40 and 1.60 the growers reduce their share in proportion, and "
            "the town publishes its daily take. Below 1.60 the growers stop, and the town takes no more than 0.20.",
            "Below 1.10 cubic metres a second the river belongs to the fish. The town then draws on the reservoir at "
            "High Tarn, which holds enough for ninety days, and the fishery trust may open the old mill bypass so that "
            "the spawning gravel stays covered. Nobody is compensated for a dry summer; everybody is told about it "
            "while it is happening and not in the autumn.",
            "The daily mean flow decides, not a single reading. A bird on the sensor, a raft of leaves at the well or a "
            "child with a bucket must not close an orchard. When the record of a day is incomplete, the mean of the "
            "readings that exist is used and marked as an estimate; when more than half of the day is missing, the "
            "restrictions of the day before remain in force.",
        ],
    ),
    (
        "4. Records, doubts and how to settle them",
        [
            "Every reading is kept as it was taken. Corrections are added beside it with the name of the person, the "
            "date and the reason; nothing is written over. The record is open to all three parties, and the daily means "
            "are published for anyone who asks.",
            "A party that doubts a figure says so in writing within thirty days and names the period and the reason. The "
            "hydrometric office then compares the sensor with the staff gauge, repeats a gauging with another meter, and "
            "answers within sixty days. Until it has answered, the figure stands. If the doubt proves right, the figures "
            "of the period are recomputed for all parties and not only for the one that asked.",
            "This agreement runs for ten years from the first of January 2026. It may be ended by any party with a "
            "year's notice, given in summer, when everyone can see the river they are talking about.",
        ],
    ),
]

ACUERDO_TITULO = "Acuerdo de aforo del río Segura"

ACUERDO = [
    (
        "Antecedentes",
        [
            "La comunidad de regantes y el ayuntamiento comparten desde 1987 la toma situada aguas abajo del puente "
            "viejo. Hasta hoy cada parte anotaba sus propias lecturas y, en los veranos secos, las cifras no coincidían. "
            "Este acuerdo fija una sola sección de medida, un solo cuaderno y una sola manera de corregirlo.",
        ],
    ),
    (
        "Sección de medida",
        [
            "La sección de control está noventa metros por debajo del puente. El lecho es de grava, las orillas son rectas "
            "y no recibe ningún afluente. Una sonda de presión registra el nivel cada quince minutos; la escala pintada en "
            "el estribo se lee a ojo en cada visita, porque una sonda que deriva lo hace en silencio.",
        ],
    ),
]

ACUERDO_OBLIGACIONES = [
    "Aforar el río al menos diez veces al año, con aguas bajas, medias y altas.",
    "Revisar la curva de gasto cada enero y después de cada crecida que mueva el lecho.",
    "Publicar el caudal medio diario antes del mediodía siguiente.",
    "Conservar cada lectura tal como se tomó; las correcciones se añaden al lado.",
]

ACUERDO_UMBRALES = [
    ("Caudal medio diario (m³/s)", "Regantes", "Ayuntamiento"),
    ("más de 2,40", "hasta 0,60", "hasta 0,35"),
    ("de 1,60 a 2,40", "en proporción", "hasta 0,35"),
    ("de 1,10 a 1,60", "ninguna toma", "hasta 0,20"),
    ("menos de 1,10", "ninguna toma", "embalse de reserva"),
]

METODO_DE_VADEO = """# Aforar un río a pie

El método de vadeo es el más antiguo y, en ríos pequeños, sigue siendo el mejor. Hacen falta una cinta, un molinete,
una vara graduada y *botas que no calen*.

## Antes de entrar

1. Leer la escala y anotar la hora.
2. Mirar el agua durante cinco minutos: si sube, no se entra.
3. Tender la cinta de orilla a orilla, perpendicular a la corriente.

## La medida

Se reparten **veinte verticales** de modo que ninguna lleve más de la décima parte del caudal. En cada una se anotan
la distancia, la profundidad y la velocidad:

| profundidad    | dónde se mide           |
|----------------|-------------------------|
| menos de 0,5 m | a 0,6 de la profundidad |
| 0,5 m o más    | a 0,2 y a 0,8           |

El caudal es la suma de los productos:

```
Q = Σ ancho × profundidad × velocidad media
```

> Quien mide se coloca aguas abajo y a un lado de la vara. El río que pasa entre las piernas ya no es el río.

## Al salir

Leer la escala otra vez. Si el nivel cambió más de dos centímetros, la medida vale para el nivel medio y se dice.
"""

ANNUAL_REPORT_HTML = """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>The river year 2025</title>
  <style>body { font-family: serif; max-width: 40em } td { text-align: right }</style>
  <script>console.log("this is code, not text of the report")</script>
</head>
<body>
  <h1>The river year 2025</h1>
  <p>It was a year of two halves. Snow lay late on the upper catchment, and the flood of the 3rd of May, at
     <b>148&nbsp;m&sup3;/s</b>, was the highest since the gauge was built. It moved the gravel bar below the railway bridge
     eleven metres downstream, and with it the rating curve.</p>
  <p>Then it stopped raining. From the 19th of June to the 2nd of September the daily mean flow never rose above two cubic
     metres a second. The growers stopped taking water on the 7th of July &mdash; two weeks earlier than in any year on record.</p>
  <h2>Flow by quarter</h2>
  <table>
    <tr><th>Quarter</th><th>Mean flow (m&sup3;/s)</th><th>Lowest day</th><th>Highest day</th></tr>
    <tr><td>January to March</td><td>14.2</td><td>6.8</td><td>61.0</td></tr>
    <tr><td>April to June</td><td>19.7</td><td>1.9</td><td>148.0</td></tr>
    <tr><td>July to September</td><td>1.6</td><td>0.9</td><td>4.4</td></tr>
    <tr><td>October to December</td><td>8.3</td><td>2.2</td><td>37.5</td></tr>
  </table>
  <h2>What we learned</h2>
  <ul>
    <li>A stilling well with one inlet silts up in a flood. It now has two.</li>
    <li>Gaugings made at night, when the air is still, scatter half as much as those made at noon.</li>
    <li>People believe a number sooner when they have held the tape.</li>
  </ul>
</body>
</html>
"""

FIELD_NOTES_UTF8 = """Cuaderno de campo, puente de La Ñora

12 de marzo. Nivel 0,84 m a las 9:10, bajando. El agua viene turbia por la lluvia del martes. Veintidós verticales,
la más honda de 1,32 m. Caudal: 9,61 m³/s. Curva: 9,40 m³/s. Desviación del 2 %, dentro de lo normal.

3 de abril. Nivel 0,61 m. Una garza sobre la caseta de la sonda; ha estado allí bastante tiempo, a juzgar por el
tejado. Caudal: 5,02 m³/s.

28 de abril. No se afora: el río trae ramas. Se lee la escala cada diez minutos desde la orilla, de 1,90 a 2,35 m,
y se marca en el estribo la huella más alta para medirla cuando baje.

Symbols to keep an eye on: m³/s, Σ, ½, ±, →, “quotes”, and an emoji for the heron: 🪶
"""

FIELD_LOG_UTF16 = """Field log of the Stonebridge weir

Monday. Cleaned the inlet of the stilling well. The sensor had read eleven millimetres high since Friday, which is the
thickness of the mud I took out of it.

Wednesday. Two gaugings an hour apart with different meters: 3.18 and 3.22 cubic metres a second. The difference is
smaller than either meter's own tolerance, so I wrote both down and went home early.

Friday. Rain at last. The stage rose four centimetres before noon. The growers telephoned to ask whether that counts;
I told them the daily mean decides, and the day was not over.
"""

AFORO_WINDOWS_1252 = """Aforo en el puente de piedra

El agua baja despacio en otoño. Medimos al amanecer, cuando todavía no sopla el viento, y el molinete gira sin
prisa: treinta vueltas en un minuto, después veintiocho. «Poco río», dice el guarda, que lleva cuarenta años
mirándolo y nunca ha necesitado un molinete.

La niña del molino pregunta cuántos cubos caben en un metro cúbico. Cien, si el cubo es de diez litros. ¿Y cuántos
pasan en un segundo? Hoy, ciento ochenta. Se queda pensando y luego corre a la orilla a contarlos.

Coste de la jornada: 120 € más el desayuno – que fue lo mejor.
"""

KAWA_SHIFT_JIS = """川の流れを測る

川の水は毎日ちがう速さで流れています。私たちは橋の下で水の深さと速さを測り、一秒間に流れる水の量を計算します。

今日の水位は零点八メートル、流量は毎秒九立方メートルでした。昨日の雨で水が少し濁っていますが、魚はよく見えます。
夕方になると風が止み、水面は鏡のように静かになりました。
"""
