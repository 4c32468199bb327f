include { again ; options ; threads ; words } from '../shell'

// Which cells stay by their surface protein: empty cells, aggregates; isotype controls are marked
process PROTEIN_QC {
    tag "${meta.sample}"
    label 'process_low'
    label 'image_cpu'

    input:
    tuple val(meta), path(counts, stageAs: 'counts/*'), path(barcodes, stageAs: 'barcodes/*'), path(cells, stageAs: 'cells/*'), path(hto, stageAs: 'hto/*'), val(hto_features) // barcodes: its cells; cells: a table of them; or []
    val settings                                                                              // thresholds and seed

    output:
    tuple val(meta), path("*.protein.h5ad"), emit: cells                                      // kept cells, raw counts
    path "qc/${meta.sample}/*"                                                                // every barcode, every rule
    path 'kept', emit: qc // a second name: a folder that is an output hides its files from publishDir
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-qc-protein --resources ${meta.sample}.protein_qc.resources.json ${words(counts)} --sample=${meta.sample} \\
        ${options(barcodes: barcodes, cells: cells, hto: hto, hto_features: hto_features)} ${options(settings)} \\
        --output=${meta.sample}.protein.h5ad --qc=qc/${meta.sample}
    ${again('qc', 'kept')}
    """

    stub:
    """
    mkdir -p qc/${meta.sample}
    touch ${meta.sample}.protein.h5ad
    echo '{}' | tee qc/${meta.sample}/protein.json > ${meta.sample}.protein_qc.resources.json
    ${again('qc', 'kept')}
    """
}
